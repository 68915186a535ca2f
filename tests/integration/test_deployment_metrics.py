"""What the dashboard and the alerts ask Prometheus for is what a server exports: names, labels and their values."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from calibox_server.errors import ServiceError
from tests.support.deployment import DOCKER, read_yaml
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture
from tests.support.promql import Selected, selected

DASHBOARD = json.loads((DOCKER / "grafana/dashboards/calibox.json").read_text())
RULES = [rule for group in read_yaml("prometheus/rules.yaml")["groups"] for rule in group["rules"]]
# Prometheus adds these to whatever it scrapes (the last two in Kubernetes), and makes `up` itself.
FROM_PROMETHEUS = {"job", "instance", "namespace", "pod"}
Exported = dict[str, dict[str, set[str]]]  # values by label by name


def queries() -> Iterator[tuple[str, str]]:
    """Where each query stands, and the query as Grafana sends it."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            text = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$model", ".*")
            yield f"{panel['title']}-{target['refId']}", text
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for rule in read_yaml("kubernetes/prometheus-adapter/values.yaml")["rules"]["custom"]:
        yield f"{rule['name']['as']}-series", rule["seriesQuery"]
        # As the adapter fills it in when the autoscaler asks for the pods of a deployment.
        query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
        query = query.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="n"')
        assert "<<" not in query
        yield rule["name"]["as"], query


@pytest.fixture(scope="module")
def exported(models: Path) -> Exported:
    """Everything that `/metrics` of a server has, after one detection and one connection that it refused."""
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        answer = client.post(
            "/v1/detect", content=encoded(picture(), "JPEG"), headers={"Content-Type": "image/jpeg"},
            params={"score_threshold": 0},
        )  # fmt: skip
        assert answer.json()["results"][0]["detections"]
        with socket.create_connection((urlsplit(url).hostname or "", urlsplit(url).port or 0), PATIENCE_S) as raw:
            raw.sendall(b"this is not HTTP\r\n\r\n")
            assert raw.recv(1024).startswith(b"HTTP/1.1 400")
        text = client.get("/metrics").text
    found: Exported = {"up": {}}
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        labels = found.setdefault(sample.name, {})
        for name, value in sample.labels.items():
            labels.setdefault(name, set()).add(value)
    return found


def codes() -> set[str]:
    """Every code that `calibox_requests_total` can have."""
    below = [ServiceError]
    for error in below:
        below += error.__subclasses__()
    return {"ok", "client_closed"} | {error.code for error in below}


def faults(one: Selected, exported: Exported) -> list[str]:
    """What of a selector no server exports."""
    if one.name not in exported:
        return [f"no metric {one.name}"]
    labels = exported[one.name]
    unknown = [f"{one.name} has no label {name}" for name in one.labels - labels.keys() - FROM_PROMETHEUS]
    told = {name: codes() if name == "code" else labels.get(name, set()) for name in one.equal.keys() - FROM_PROMETHEUS}
    return unknown + [
        f"{one.name} has no {n}={one.equal[n]}" for n, values in told.items() if one.equal[n] not in values
    ]


@pytest.mark.parametrize(("where", "query"), list(queries()), ids=[where for where, _ in queries()])
def test_a_query_asks_for_what_the_server_exports(where: str, query: str, exported: Exported) -> None:
    asked = selected(query)
    assert asked, where
    assert [fault for one in asked for fault in faults(one, exported)] == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum(rate(calibox_request_total[1m]))", "no metric calibox_request_total"),
        ("sum by (stag) (calibox_stage_seconds_count)", "calibox_stage_seconds_count has no label stag"),
        ('calibox_stage_seconds_count{stage="engines"}', "calibox_stage_seconds_count has no stage=engines"),
        ('calibox_requests_total{code="overload"}', "calibox_requests_total has no code=overload"),
    ],
)
def test_a_query_for_what_is_not_exported_is_found(query: str, fault: str, exported: Exported) -> None:
    assert [f for one in selected(query) for f in faults(one, exported)] == [fault]


def test_the_lists_to_choose_from_are_labels_that_the_server_exports(exported: Exported) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        assert variable["query"]["query"] == variable["definition"]
        assert label in exported[metric].keys() | FROM_PROMETHEUS


def test_the_dashboard_shows_what_an_operator_asks_after() -> None:
    shown = {one.name for where, query in queries() for one in selected(query)}
    assert {
        "calibox_requests_total",
        "calibox_stage_seconds_bucket",
        "calibox_batch_size_bucket",
        "calibox_queue_depth",
        "calibox_detection_scores_sum",
    } <= shown
    kinds = {one.equal.get("kind") for where, query in queries() for one in selected(query)}
    assert {"classification", "localization", "disagreement"} <= kinds


def test_panels_do_not_lie_on_each_other_and_read_from_the_source_that_is_set_up() -> None:
    (source,) = read_yaml("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    taken: set[tuple[int, int]] = set()
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert max(x for x, _ in cells) < 24  # Grafana's grid
        assert not cells & taken
        taken |= cells
        assert panel["type"] == "row" or (panel["datasource"]["uid"] == source["uid"] and panel["description"])


def test_grafana_finds_its_files_where_compose_puts_them() -> None:
    grafana = read_yaml("compose.yaml")["services"]["grafana"]
    mounted = {volume["target"]: volume["source"] for volume in grafana["volumes"]}
    (provider,) = read_yaml("grafana/provisioning/dashboards/calibox.yaml")["providers"]
    folder = DOCKER / mounted[provider["options"]["path"]]
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent.as_posix() == provider["options"]["path"]
    assert (folder / home.name).is_file()


def test_an_alert_says_how_urgent_it_is_and_what_to_do() -> None:
    assert len(RULES) == len({rule["alert"] for rule in RULES})
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "warn"}
        assert rule["for"]
        assert ": " in rule["annotations"]["summary"]


def test_both_ways_to_scrape_are_the_same_but_for_the_key() -> None:
    plain, keyed = (read_yaml(f"prometheus/{name}.yaml") for name in ("prometheus", "prometheus-keys"))
    del keyed["scrape_configs"][0]["authorization"]
    assert keyed == plain
    (server,) = plain["scrape_configs"][0]["dns_sd_configs"]
    assert (server["names"], server["port"]) == (["calibox"], 8000)

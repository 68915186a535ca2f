"""`/metrics` equals what the client itself counted, exactly; logs and traces name the same request."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

RAW = {"Content-Type": "image/jpeg"}
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def samples(client: httpx2.Client, family: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Values of one name by labels, in the order of the alphabet."""
    text = client.get("/metrics").text
    found = [s for f in text_string_to_metric_families(text) for s in f.samples if s.name == family]
    return {tuple(sorted(s.labels.items())): s.value for s in found}


def detect(client: httpx2.Client, seed: int = 0, **headers: str) -> httpx2.Response:
    data = encoded(picture(width=160, height=120, seed=seed), "JPEG", quality=95)
    return client.post("/v1/detect", content=data, headers={**RAW, **headers}, params={"score_threshold": 0.05})


def test_distributions_of_scores_equal_those_of_the_answers(models: Path) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        answers = [detect(client, seed) for seed in range(5)]
        found = [d for answer in answers for d in answer.json()["results"][0]["detections"]]
        assert len(found) > 20
        counts = samples(client, "calibox_detection_scores_bucket")
        sums = samples(client, "calibox_detection_scores_sum")
    for name in {d["label"] for d in found}:
        p, q, score = (
            np.array([np.float32(d[kind]) for d in found if d["label"] == name], np.float64)
            for kind in ("classification_score", "localization_score", "score")
        )
        for kind, values in (
            ("classification", p), ("localization", q), ("score", score), ("disagreement", np.abs(p - q))
        ):  # fmt: skip
            labels = {"class": name, "kind": kind, "model": "tiny", "version": "1"}
            for edge in [*(i / 10 for i in range(1, 11)), np.inf]:
                le = "+Inf" if edge == np.inf else str(edge)
                assert counts[tuple(sorted({**labels, "le": le}.items()))] == np.sum(values <= edge)
            assert sums[tuple(sorted(labels.items()))] == pytest.approx(values.sum())
    assert sum(v for labels, v in counts.items() if ("le", "+Inf") in labels) == 4 * len(found)


def test_scores_are_not_counted_where_the_setting_says_so(models: Path) -> None:
    with (
        live_server(models, score_histograms=False) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        assert detect(client).status_code == 200
        assert samples(client, "calibox_detection_scores_bucket") == {}


def test_answers_of_every_address_are_counted_by_template_and_status(models: Path) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        sent: Counter[tuple[str, int]] = Counter()
        for method, path, template in (
            ("GET", "/livez", "/livez"),
            ("GET", "/v1/models/tiny", "/v1/models/{name}"),
            ("GET", "/v1/models/cars", "/v1/models/{name}"),
            ("GET", "/v1/models/tiny", "/v1/models/{name}"),
            ("POST", "/v1/detect", "/v1/detect"),
            ("GET", "/nothing/here", ""),
        ):
            sent[template, client.request(method, path).status_code] += 1
        counted = samples(client, "calibox_http_responses_total")
    assert {(dict(k)["path"], int(dict(k)["status"])): v for k, v in counted.items()} == sent


def test_the_process_and_what_runs_in_it_are_told(models: Path) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert samples(client, "calibox_requests_in_flight") == {(): 1}  # the one that asks
        assert samples(client, "process_resident_memory_bytes")[()] > 1e7
        assert samples(client, "calibox_uptime_seconds")[()] > 0
        ((build, one),) = samples(client, "calibox_build_info").items()
        assert (set(dict(build)), one) == ({"version", "python"}, 1)
        ((model, grown),) = samples(client, "calibox_engine_memory_bytes").items()
        assert dict(model) == {"model": "tiny", "version": "1"}
        assert 0 <= grown < 1e9


def test_every_answer_has_its_timing(models: Path) -> None:
    with live_server(models) as url, httpx2.Client(base_url=url, timeout=PATIENCE_S) as client:
        assert client.get("/livez").headers["Server-Timing"].startswith("total;dur=")
        assert client.get("/nothing").headers["Server-Timing"].startswith("total;dur=")
        assert client.post("/v1/detect").headers["Server-Timing"].startswith("total;dur=")


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    lines = capsys.readouterr().err.splitlines()
    return [entry for entry in map(json.loads, lines) if entry["event"] == "request"]


def test_each_request_is_one_line_with_its_ids_and_stages(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        live_server(models, log_format="json", log_level="info") as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        detect(client, **{"X-Request-Id": "my-id.1", "traceparent": TRACEPARENT})
        refused = client.post("/v1/detect", headers={"X-Request-Id": "my-id.2", "traceparent": TRACEPARENT})
        client.get("/livez")
        client.get("/v1/models%0Aforged")
    assert refused.json()["trace_id"] == TRACE
    first, second, third = logged(capsys)
    assert first.keys() == {
        "event", "level", "timestamp", "status", "code", "method", "path", "request_id", "client", "trace_id",
        "model", "images", "batch", "decode_ms", "queue_ms", "engine_ms", "total_ms",
    }  # fmt: skip
    wanted = {"request_id": "my-id.1", "trace_id": TRACE, "status": 200, "code": "ok", "model": "tiny/1", "images": 1}
    assert wanted.items() <= first.items()
    assert (second["status"], second["code"], second["trace_id"]) == (400, "malformed", TRACE)
    assert (third["status"], third["path"]) == (404, "/v1/models\\nforged")


def test_a_path_cannot_forge_a_line_of_the_console(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        live_server(models, log_level="info") as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        client.get("/a%0A2026-01-01T00:00:00Z [info     ] request status=200")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "request" in line]
    assert "path=/a\\n2026" in line


@pytest.mark.parametrize(("level", "lines"), [("warning", 0), ("info", 1), ("debug", 2)])
def test_the_level_decides_about_lines(
    models: Path, capsys: pytest.CaptureFixture[str], level: str, lines: int
) -> None:
    with (
        live_server(models, log_format="json", log_level=level) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        client.get("/livez")
        client.get("/v1/models")
    assert len(logged(capsys)) == lines


@pytest.fixture(autouse=True)
def no_other_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What other tests left is not read."""
    capsys.readouterr()

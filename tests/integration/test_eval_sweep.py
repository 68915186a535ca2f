"""`calibox eval --sweep` against a real server: raw scores over HTTP, every ranking offline, the best ones live."""

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from calibox_core.coco_metrics import coco_metrics, load_ground_truth
from calibox_core.dataset import CocoFolder
from calibox_core.images import decode_image
from calibox_core.nms import NmsAttributes
from tests.support.bundles import make_tiny_bundle
from tests.support.command_line import CommandLine
from tests.support.eval_folders import InProcess, make_eval_folder
from tests.support.live_server import live_server

# As many candidates as the tiny network has pairs of a box and a class: then what was fetched is all there is.
ALL_PAIRS = NmsAttributes(pre_nms_top_k=12 * 16 * 3, max_detections=50, candidate_floor=0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("models"), nms=ALL_PAIRS)


@pytest.fixture(scope="module")
def url(bundle: Path) -> Iterator[str]:
    with live_server(bundle.parents[1], max_batch=1) as address:
        yield address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> CocoFolder:
    return make_eval_folder(tmp_path_factory.mktemp("data") / "data", bundle, images=8)


class Page(HTMLParser):
    """Tags and text of a page, and whatever it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        named = [values.get(key) or "" for key in ("src", "href", "xlink:href", "data")]
        self.fetched += [value for value in named if value and not value.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_rankings_made_offline_are_those_of_the_server_and_the_page_stands_alone(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calibox_client.evaluation.sweep.DRAWS", 50)
    report = tmp_path / "report.html"
    options = ("--data", folder.root, "--output", tmp_path / "r.json", "--sweep", "--report", report, "--json")
    done = calibox("eval", "--server", url, *options)
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    swept = summary["sweep"]
    assert len(swept["points"]) > 20
    assert {"classification", "geometric 0.5"} <= {one["name"] for one in swept["confirmed"]}
    assert len(swept["confirmed"]) >= 2
    for one in swept["confirmed"]:
        assert one["images_that_differ"] == 0, one
        assert one["test_AP"] == pytest.approx(one["offline_test_AP"], abs=1e-9)
        assert one["delta_AP"][1] <= one["delta_AP"][0] <= one["delta_AP"][2]
    assert len({point["test_AP"] for point in swept["points"]}) > 5  # rankings do differ
    assert 0.1 < summary["AP"] < 1
    best = max(swept["points"], key=lambda point: point["calibration_AP"])
    assert (swept["chosen"], swept["images"], swept["test_images"]) == (best["name"], 8, 4)

    document = json.loads(report.with_suffix(".json").read_text())
    assert document["sweep"] == swept
    page = Page(report.read_text())
    assert page.fetched == []
    assert "script" not in page.tags
    assert page.tags.count("svg") == 1 + 3 + 3 + 1
    assert "color-scheme: light dark" in page.text
    for told in ("class-0", "class-2", "geometric 0.5", "LaECE0", "oLRP", f"{summary['AP']:.3f}"):
        assert told in page.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.json", "report.html", "report.json"]


def test_ap_through_http_is_that_of_the_same_file_in_process(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path, bundle: Path
) -> None:
    done = calibox("eval", "--server", url, "--data", folder.root, "--output", tmp_path / "r.json", "--json")
    assert done.code == 0, done.err
    through_http = json.loads(done.out)
    network = InProcess(bundle)
    truth = folder.annotations("val")
    rows = [
        {"image_id": image["id"], **row}
        for image in truth["images"]
        for row in network.rows(decode_image((folder.images / image["file_name"]).read_bytes()))
    ]
    expected, _ = coco_metrics(load_ground_truth(truth), rows)
    assert {name: through_http[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert (expected["AP"] or 0) > 0.1


def test_a_missed_limit_is_status_3_and_the_report_is_there(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path
) -> None:
    base = ("eval", "--server", url, "--data", folder.root, "--output", tmp_path / "r.json")
    done = calibox(*base, "--fail-under", "AP=0.01", "--fail-under", "AP50=0.999", "--report", tmp_path / "e.html")
    assert done.code == 3
    assert "below 0.999" in done.err
    assert "below 0.01" not in done.err
    assert (tmp_path / "e.html").is_file()
    assert calibox(*base, "--fail-under", "AP=0.01").code == 0
    wrong = calibox(*base, "--fail-under", "AP=30")
    assert (wrong.code, "like AP=0.30" in wrong.err) == (1, True)


def test_two_results_are_compared_without_a_server(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path
) -> None:
    data = ("--data", folder.root)
    for name, fusion in (("a", "classification"), ("b", "localization")):
        done = calibox("eval", "--server", url, *data, "--output", tmp_path / f"{name}.json", "--fusion", fusion)
        assert done.code == 0, done.err
    done = calibox("eval", *data, "--compare", tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert done.code == 0, done.err
    row = json.loads(done.out)["metrics"]["AP"]
    assert row["low"] <= row["difference"] <= row["high"]
    assert row["difference"] != 0
    refused = calibox("eval", *data, "--compare", tmp_path / "a.json", tmp_path / "b.json", "--sweep")
    assert (refused.code, "leave --sweep out" in refused.err) == (1, True)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--half", "test"), "leave --half out"),
        (("--classes", "class-1"), "leave --classes out"),
        (("--refine", "true"), "give --refine false"),
    ],
)
def test_a_sweep_of_what_cannot_be_made_offline_is_refused(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    base = ("eval", "--server", url, "--data", folder.root, "--output", tmp_path / "r.json", "--sweep")
    done = calibox(*base, *options)
    assert (done.code, why in done.err) == (1, True), done.err


def test_a_sweep_needs_objects_in_both_halves(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path
) -> None:
    document = folder.annotations("val")
    kept = [row for row in document["annotations"] if row["image_id"] % 2]
    (tmp_path / "half.json").write_text(json.dumps({**document, "annotations": kept}))
    where = ("--images", folder.images, "--annotations", tmp_path / "half.json", "--output", tmp_path / "r.json")
    done = calibox("eval", "--server", url, *where, "--sweep")
    assert (done.code, "must be objects in both halves" in done.err) == (1, True), done.err

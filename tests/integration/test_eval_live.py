"""`calibox eval` against a real server, and interrupted against a played one."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calibox_client import Client, RetryPolicy
from calibox_core.dataset import CocoFolder
from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder
from tests.support.coco2017 import make_coco2017
from tests.support.command_line import CommandLine
from tests.support.data import dataset
from tests.support.kitti import make_kitti
from tests.support.live_server import live_server
from tests.support.oracle import Oracle, objects_of, served, write_coco
from tests.support.voc import make_voc

WAIT_S = 120  # generous: a loaded machine is slow, a hanging command never ends
METRICS = {"AP", "AP50", "AP60", "AP70", "AP75", "AP80", "AP90", "APs", "APm", "APl", "AR1", "AR10", "AR100"}
KITTI_KEYS = {f"KITTI_AP_{kind}_{d}" for kind in ("R40", "R11") for d in ("easy", "moderate", "hard")}
ALL_OWN_KEYS = KITTI_KEYS | {"VOC07_AP50", "VOC12_AP50"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server; one image per run of the engine, so that answers are equal to the last bit."""
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root)
    with live_server(root, max_batch=1) as address:
        yield address


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    """Small pictures whose classes have the ids and names of the model's."""
    made = make_coco_folder(tmp_path / "data", val=7)
    path = made.annotations_path("val")
    text = (
        path.read_text().replace('"category_id": 5', '"category_id": 1').replace('"category_id": 6', '"category_id": 2')
    )
    document = json.loads(text)
    document["categories"] = [{"id": n + 1, "name": f"class-{n}"} for n in range(3)]
    path.write_text(json.dumps(document))
    return made


def arguments(url: str, folder: CocoFolder, output: Path) -> tuple[object, ...]:
    where = ("--images", folder.images, "--annotations", folder.annotations_path("val"))
    return ("eval", "--server", url, *where, "--output", output)


def test_json_is_one_object_and_the_results_are_what_the_server_says(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path
) -> None:
    output = tmp_path / "results.json"
    done = calibox(*arguments(url, folder, output), "--json")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert done.out.count("\n") == 1
    assert set(summary) >= METRICS
    assert all(summary[name] is None or 0 <= summary[name] <= 1 for name in METRICS)
    assert (summary["images"], summary["model"], summary["version"]) == (7, "tiny", "1")
    assert summary["parameters"]["score_threshold"] == 0
    assert summary["parameters"]["max_detections"] == 50  # the bundle's limit is below COCO's 100
    assert summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"] <= summary["latency_ms"]["max"]

    images = {entry["id"]: entry["file_name"] for entry in folder.annotations("val")["images"]}
    with Client(url) as client:
        expected = [
            {
                "image_id": image_id,
                "category_id": one.label_id,
                "bbox": [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]],
                "score": one.score,
                "classification_score": one.classification_score,
                "localization_score": one.localization_score,
            }
            for image_id in sorted(images)
            for one in client.detect(folder.images / images[image_id], score_threshold=0)
        ]
    assert json.loads(output.read_text()) == expected
    assert summary["detections"] == len(expected) > 20


def test_tables_are_printed_for_people(calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path) -> None:
    done = calibox(*arguments(url, folder, tmp_path / "r.json"), "--half", "test", "--rank-by", "classification_score")
    assert done.code == 0, done.err
    for text in (
        "tiny/1, 3 images (test)",
        "Average Precision  (AP) @[ IoU=0.50:0.95",
        "AP90",
        "APs",
        "images/s",
        "p99",
    ):
        assert text in done.out
    assert "ranked by classification_score" in done.out


def test_a_repeated_run_measures_the_same(calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path) -> None:
    runs = []
    for concurrency in (1, 8):
        done = calibox(*arguments(url, folder, tmp_path / "r.json"), "--json", "--concurrency", concurrency)
        runs.append(({name: json.loads(done.out)[name] for name in METRICS}, (tmp_path / "r.json").read_bytes()))
    assert runs[0] == runs[1]


def test_real_pictures_are_measured(calibox: CommandLine, url: str, tmp_path: Path) -> None:
    real = dataset("bccd")
    done = calibox(*arguments(url, real, tmp_path / "r.json"), "--json", "--half", "calibration")
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["images"] == 36
    assert summary["AP"] < 0.05  # random weights
    assert "disagree on category ids: 1 is 'class-0', here 'RBC'" in done.err


@pytest.mark.parametrize(
    ("layout", "make", "images", "own"),
    [
        ("coco", make_coco_folder, 4, set()),
        ("coco", make_coco2017, 4, set()),
        ('{"format": "voc", "voc": {"classes": ["car", "person"]}}', make_voc, 3, {"VOC07_AP50", "VOC12_AP50"}),
        ('{"format": "kitti", "kitti": {"val_fraction": 0.25}}', make_kitti, 2, KITTI_KEYS),
    ],
    ids=["coco", "coco2017", "voc", "kitti"],
)
def test_a_data_folder_is_measured_in_its_layout(
    calibox: CommandLine, url: str, tmp_path: Path, layout: str, make: Callable[[Path], Any], images: int, own: set[str]
) -> None:
    make(tmp_path / "data")
    options = ("--data", tmp_path / "data", "--layout", layout, "--output", tmp_path / "r.json", "--json")
    done = calibox("eval", "--server", url, *options)
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert (set(summary) & ALL_OWN_KEYS, summary["images"]) == (own, images)
    assert all(summary[key] is None or 0 <= summary[key] <= 1 for key in METRICS | own)
    done = calibox("eval", "--server", url, *options[:-1], "--split", "train")
    assert done.code == 0, done.err
    assert all(f"{key} " in done.out for key in own)


def test_wrong_settings_are_sentences(
    calibox: CommandLine, url: str, folder: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetryPolicy, "pause", lambda *_: 0.0)
    base = arguments(url, folder, tmp_path / "r.json")
    assert "alpha must be" in calibox(*base, "--fusion", "power", "--alpha", "-1").err
    assert "does not serve unicorn" in calibox(*base, "--model", "unicorn").err
    nowhere = arguments("http://127.0.0.1:1", folder, tmp_path / "r.json")
    gone = calibox(*nowhere)
    assert (gone.code, gone.out) == (1, "")
    assert "http://127.0.0.1:1 cannot be reached" in gone.err
    assert calibox("eval", "--images", folder.images, "--annotations", tmp_path / "absent.json").code == 1


def command(url: str, root: Path) -> list[str]:
    where = ["--images", str(root / "images"), "--annotations", str(root / "instances.json")]
    options = ["--output", str(root / "r.json"), "--concurrency", "1", "--json", "--server", url]
    return [sys.executable, "-m", "calibox_core.cli", "eval", *where, *options]


def test_ctrl_c_keeps_the_answers_and_the_same_command_goes_on(tmp_path: Path) -> None:
    document = write_coco(tmp_path)
    stuck, release = threading.Event(), threading.Event()

    def find(image_id: int) -> list[dict[str, Any]]:
        if image_id == 6 and not release.is_set():
            stuck.set()
            release.wait(WAIT_S)
        return objects_of(document, image_id)

    oracle = Oracle(find, {5: "red", 9: "blue"})
    with served(oracle) as url:
        with subprocess.Popen(
            command(url, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            while not stuck.wait(0.1):
                assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=WAIT_S)
        release.set()
        assert (process.returncode, out) == (130, "")
        assert "goes on where this one stopped" in err
        assert "Traceback" not in err
        oracle.asked.clear()
        again = subprocess.run(command(url, tmp_path), capture_output=True, text=True, check=True, timeout=WAIT_S)
    assert oracle.asked == [6, 7, 8, 9, 10, 11, 12]
    summary = json.loads(again.stdout)
    assert (summary["images"], summary["images_resumed"]) == (12, 5)
    assert summary["AP"] == pytest.approx(1.0, abs=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "instances.json", "r.json"]

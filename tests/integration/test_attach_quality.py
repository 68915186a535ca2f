"""`calibox attach-quality` from a foreign ONNX file, or from result files, to what is served."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_client import Client
from calibox_core.bundle import MODEL_FILE, read_bundle, sha256_of
from calibox_core.dataset import CocoFolder
from calibox_export.attach.measure import Outcome
from calibox_export.parity import open_graph
from calibox_export.verify import letterboxed_images
from calibox_training.data.coco import read_pixels
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.foreign import ColourDetector, colours_of
from tests.support.live_server import live_server

RECIPE = """
features: {backbone_width: 0.125, fpn_channels: 8}
predictor: {width: 16, pooled: 3, initialisation: he}
jitter: {per_image: 16}
schedule: {optimizer: adamw, learning_rate: 0.003, epochs: 2, batch_size: 4, warmup_iterations: 0, decay: cosine}
refinement: {steps: 2}
"""


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return make_coco_folder(tmp_path / "rectangles", train=12, val=8)


def usual(tmp_path: Path, folder: CocoFolder, output: str) -> list[Any]:
    return [
        *("--data", folder.root, "--recipe", tmp_path / "recipe.yaml", "--output", tmp_path / output),
        *("--models", tmp_path / "models", "--accelerator", "cpu", "--workers", 0, "--draws", 20),
    ]


def test_a_foreign_detector_is_served_with_a_localization_score(
    calibox: CommandLine, folder: CocoFolder, tmp_path: Path
) -> None:
    file = ColourDetector().save(tmp_path / "colours.onnx")
    words = ["attach-quality", "--detector", file, "--name", "colours", *usual(tmp_path, folder, "run")]
    done = calibox(*words, "--boxes", 5)
    assert done.code == 0, done.err
    assert "boxes xyxy in pixels, classes from 1" in done.out
    assert done.out.rstrip().endswith(f"bundle: {tmp_path / 'models' / 'colours' / '1'}")
    bundle = read_bundle(tmp_path / "models" / "colours" / "1")
    manifest = bundle.manifest
    assert manifest.provenance.recipe["detector"]["sha256"] == sha256_of(file)
    assert (manifest.can_refine, manifest.quality.per_class) == (True, True)
    outcome = Outcome.model_validate_json((tmp_path / "run" / "report.json").read_text())
    assert (outcome.fusion, outcome.test_images, outcome.calibration_images) == (manifest.fusion, 4, 4)
    assert (tmp_path / "run" / "report.md").read_text() in done.out
    # One run at batch 8 equals eight at batch 1, the Loop over the detector and refinement included.
    graph = open_graph(bundle.folder / MODEL_FILE)
    images = letterboxed_images(folder, "val", manifest.input, 8)
    batch = graph(feeds(images))
    for n in range(8):
        alone = graph(feeds(images[n : n + 1]))
        for name, value in alone.items():
            np.testing.assert_allclose(value[0], batch[name][n], atol=1e-4, err_msg=name)
    served(tmp_path / "models", folder)
    # The same command finds its detections and its training, and publishes the next version.
    again = calibox(*words, "--boxes", 5)
    assert again.code == 0, again.err
    assert "its detections are there already" in again.out
    assert "its training is there already" in again.out
    assert (tmp_path / "models" / "colours" / "2").is_dir()
    assert calibox("verify", bundle.folder, "--data", folder.root, "--images", 8).code == 0
    (checkpoint,) = (tmp_path / "run").rglob("last.ckpt")
    done = calibox("verify", bundle.folder, "--data", folder.root, "--images", 8, "--checkpoint", checkpoint, "--json")
    report = json.loads(done.out)
    assert (done.code, report["torch_compared"]) == (0, False)
    assert report["note"].startswith("PyTorch does not run the detector of this bundle")
    refined = [line for line in report["comparisons"] if line["comparison"] == "refined"]
    assert len(refined) == 3
    assert all(line["compared"] > 0 for line in refined)


def feeds(images: np.ndarray) -> dict[str, np.ndarray]:
    count = len(images)
    return {
        "images": images,
        "fusion": np.tile(np.array([1, 1, 0], np.float32), (count, 1)),
        "score_threshold": np.zeros(count, np.float32),
        "iou_threshold": np.full(count, 0.5, np.float32),
        "refine_steps": np.full(count, 2, np.int32),
    }


def served(models: Path, folder: CocoFolder) -> None:
    """Every picture's answer holds the detector's boxes and scores, and a predicted IoU of its own."""
    with live_server(models) as url, Client(url) as client:
        for row in folder.annotations("val")["images"]:
            pixels = read_pixels(folder, row["file_name"])
            found = client.detect(pixels, fusion="classification", score_threshold=0.0, refine=False)
            expected = colours_of(pixels)
            assert list(found.labels) == [("red", "blue")[label] for label, _, _ in expected]
            for one, (_, box, score) in zip(found.detections, expected, strict=True):
                np.testing.assert_allclose(one.box, box, atol=0.01)
                assert one.classification_score == pytest.approx(score, abs=1e-5)
                assert 0 <= one.localization_score <= 1
            moved = client.detect(pixels, fusion="classification", score_threshold=0.0, refine=2)
            assert len(moved.detections) == len(expected)
            pairs = zip(moved.detections, found.detections, strict=True)
            assert all(a.localization_score >= b.localization_score - 1e-5 for a, b in pairs)


def test_result_files_give_a_checkpoint_and_rescored_results(
    calibox: CommandLine, folder: CocoFolder, tmp_path: Path
) -> None:
    rows = {}
    for split in ("train", "val"):
        rows[split] = [
            {
                "image_id": image["id"],
                "category_id": label + 5,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
            for image in folder.annotations(split)["images"]
            for label, (x1, y1, x2, y2), score in colours_of(read_pixels(folder, image["file_name"]))
        ]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows[split]))
    results = ["--train-detections", tmp_path / "train.json", "--val-detections", tmp_path / "val.json"]
    words = ["attach-quality", *results, *usual(tmp_path, folder, "run")]
    refused = calibox(*words)
    assert refused.code == 1
    assert "give --height and --width" in refused.err
    done = calibox(*words, "--height", 96, "--width", 128)
    assert done.code == 0, done.err
    assert done.out.rstrip().endswith(f"checkpoint: {tmp_path / 'run' / 'checkpoints' / 'last.ckpt'}")
    assert not (tmp_path / "models").exists()
    rescored = json.loads((tmp_path / "run" / "rescored_val.json").read_text())
    assert [row["classification_score"] for row in rescored] == [
        pytest.approx(row["score"]) for row in sorted(rows["val"], key=lambda row: (row["image_id"], -row["score"]))
    ]
    assert all(0 <= row["localization_score"] <= 1 for row in rescored)


def test_a_detector_is_named_in_one_way(calibox: CommandLine, folder: CocoFolder, tmp_path: Path) -> None:
    file = ColourDetector().save(tmp_path / "colours.onnx")
    for words in ([], ["--train-detections", file], ["--detector", file, "--val-detections", file]):
        done = calibox("attach-quality", "--data", folder.root, *words)
        assert done.code == 1
        assert "either --detector FILE.onnx, or both --train-detections and --val-detections" in done.err

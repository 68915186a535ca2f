"""Every system learns eight real pictures by heart, and a server of its bundle says what PyTorch says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_client import Client
from calibox_core.boxes import xywh_to_xyxy
from calibox_core.bundle import read_bundle
from calibox_core.dataset import CocoFolder
from calibox_export.onnx_export import export_bundle
from calibox_export.source import load_source
from calibox_export.verify import letterboxed_images, verify_bundle
from calibox_training.checkpoint import load_checkpoint
from calibox_training.data.coco import ImageRecord, read_records
from calibox_training.evaluation import Evaluator
from calibox_training.inference import CandidateGraph
from calibox_training.train import RunSettings, train
from tests.support.data import dataset, first_images
from tests.support.live_server import live_server
from tests.support.systems import SYSTEMS, system

# A minute of one thread each; the warning is Lightning's advice for machines with many cores.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]

IMAGES = 8
LEARNT = 0.9  # AP50 on the pictures themselves: what a wrong target, loss or decoding does not reach
SURE = 0.3  # scores from here on are compared with the server's
COMMON: dict[str, Any] = {
    # The pictures are 640x480: a red cell becomes 30 pixels wide, and a platelet would be 12.
    "input": {"height": 144, "width": 192},
    "augmentation": {"flip_horizontal": 0.0},
    "schedule__learning_rate": 0.002,
    "schedule__weight_decay": 0.0,
    "schedule__batch_size": 4,
    "schedule__warmup_iterations": 10,
    "nms__pre_nms_top_k": 300,
    "nms__max_detections": 100,
    "per_level_top_k": 300,
}
FPN = {
    "model__backbone": "resnet18",
    "model__backbone_width": 0.25,
    "model__fpn_channels": 32,
    "model__tower_depth": 2,
}
# Anchors from 16 pixels on.
ANCHORS = {"base_size": 2.0, "scales": [1.0, 2**0.5], "ratios": [1.0]}
SQUARES = {"base_size": 2.0, "scales": [1.0], "ratios": [1.0], "offset": 0.0}
EPOCHS = {"fpn": 100, "dense": 160, "ssd": 200}  # of two steps
EXTRA: dict[str, dict[str, Any]] = {
    "fpn": {**FPN, "model__anchors": ANCHORS},
    "dense": {**FPN, "model__anchors": SQUARES},
    # Without batch norm it learns in small steps.
    "ssd": {"model__backbone_width": 0.125, "schedule__learning_rate": 0.001},
}


def _family(name: str) -> str:
    """Which hyper-parameters fit a system."""
    if SYSTEMS[name].get("model__neck") == "ssd":
        return "ssd"
    return "dense" if "model__anchors" in SYSTEMS[name] else "fpn"


def _overrides(name: str) -> dict[str, Any]:
    family = _family(name)
    length = {"schedule__epochs": EPOCHS[family], "schedule__validate_every": EPOCHS[family]}
    return {**COMMON, **EXTRA[family], **length}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return first_images(dataset("bccd"), tmp_path_factory.mktemp("data") / "bccd", count=IMAGES, without="Platelets")


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_learns_its_pictures_by_heart_and_is_served_as_it_was_trained(
    name: str, folder: CocoFolder, tmp_path: Path
) -> None:
    settings = RunSettings(output=tmp_path / "run", accelerator="cpu", workers=0, progress=False)
    done = train(system(name, **_overrides(name)), folder, settings)
    assert (done.metrics["AP50"] or 0) >= LEARNT, done.metrics
    bundle = read_bundle(export_bundle(load_source(done.checkpoint), tmp_path / "models", name="learnt"))
    images = letterboxed_images(folder, "train", bundle.manifest.input, IMAGES)
    report = verify_bundle(bundle, images, done.checkpoint)
    assert report.same, report
    record = read_records(folder.annotations("train"), load_checkpoint(done.checkpoint).classes)[0]
    expected = [row for row in _by_torch(done.checkpoint, folder, record) if row["score"] >= SURE]
    assert expected
    with live_server(tmp_path / "models") as url, Client(url) as client:
        found = client.detect(folder.images / record.file_name, score_threshold=0)
    boxes = np.array([one.box for one in found])
    for row in expected:
        away = np.abs(boxes - xywh_to_xyxy(np.array([row["bbox"]]))).max(axis=1)
        of_label = [i for i in np.argsort(away) if found[i].label_id == row["category_id"]]
        nearest = found[of_label[0]]
        assert away[of_label[0]] < 0.05  # pixels of a picture that is 640 wide
        scores = (nearest.score, nearest.classification_score, nearest.localization_score)
        assert scores == pytest.approx((row["score"], row["classification_score"], row["localization_score"]), abs=1e-4)


def _by_torch(checkpoint: Path, folder: CocoFolder, record: ImageRecord) -> list[dict[str, Any]]:
    """What the trained network says of one picture, through the reference suppression."""
    trained = load_checkpoint(checkpoint)
    recipe = trained.recipe
    graph = CandidateGraph(
        trained.detector, height=recipe.input.height, width=recipe.input.width, per_level_top_k=recipe.per_level_top_k
    )
    evaluator = Evaluator(folder, trained.classes, recipe.fusion, recipe.nms, iou_threshold=recipe.thresholds.iou)
    return evaluator.run(graph, record).detections

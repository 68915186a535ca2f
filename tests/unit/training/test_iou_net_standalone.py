"""Training a predictor on the frozen features of a detector."""

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from calibox_core.dataset import CocoFolder
from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_training.box_coder import batched_iou
from calibox_training.checkpoint import CheckpointError, TrainedModel
from calibox_training.data.coco import Batch
from calibox_training.data.module import CocoDataModule
from calibox_training.iou_net.features import DetectorFeatures, box_score, outputs_of_boxes
from calibox_training.iou_net.jitter import JitteredBoxes, jittered_boxes
from calibox_training.iou_net.objective import training_loss, validation_batches
from calibox_training.iou_net.predictor import IouPredictor, output_of_class
from calibox_training.iou_net.predictor_checkpoint import load_predictor
from calibox_training.iou_net.refinement import refine
from calibox_training.iou_net.spec import JitterSpec, PredictorSpec, RefinementSpec
from calibox_training.iou_net.standalone import StandaloneResult, StandaloneSettings, train_standalone
from calibox_training.machine import RunError
from calibox_training.models.detector import Detector
from calibox_training.objects import Objects
from calibox_training.training_spec import Schedule
from tests.support.coco import make_coco_folder
from tests.support.recipes import tiny_recipe
from tests.support.systems import SSD

SMALL = PredictorSpec(width=32, pooled=3, initialisation="he")


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return make_coco_folder(tmp_path / "rectangles")


def small_model(**overrides: object) -> TrainedModel:
    """A detector as its initialisation left it."""
    torch.manual_seed(0)
    recipe = tiny_recipe(**overrides)
    classes = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))
    dataset = DatasetInfo(name="rectangles", license="CC0-1.0", train_images=8, val_images=4, sha256="0" * 64)
    detector = Detector(recipe.model, classes=2).eval()
    return TrainedModel(detector, recipe, classes, dataset, commit="unknown", metrics={})


def run(folder: CocoFolder, output: Path, *, model: TrainedModel | None = None, **schedule: object) -> StandaloneResult:
    values = {"optimizer": "adamw", "learning_rate": 3e-3, "epochs": 1, "batch_size": 4, "warmup_iterations": 0}
    settings = StandaloneSettings(
        output=output,
        schedule=Schedule.model_validate(values | {"decay": "cosine"} | schedule),
        jitter=JitterSpec(per_image=32),
        predictor=SMALL,
        accelerator="cpu",
        workers=0,
    )
    return train_standalone(model or small_model(), folder, settings)


def test_a_run_leaves_a_predictor_and_metrics(folder: CocoFolder, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "run")
    assert result.checkpoint == tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == result.metrics
    # Three of the four images of the validation split may have an object; each of those gives 32 boxes above 0.5.
    assert result.metrics["pearson_n"] in {32.0, 64.0, 96.0}
    assert 0 < (result.metrics["iou_error"] or 0) < 0.5
    predictor = load_predictor(result.checkpoint)
    assert predictor.spec == SMALL
    assert predictor.output.out_features == 2
    assert [path.name for path in (tmp_path / "run").rglob("*.part")] == []


def test_the_loss_falls_and_the_detector_stays(folder: CocoFolder, tmp_path: Path) -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.detector.state_dict().items()}
    first = run(folder, tmp_path / "short", model=model, learning_rate=0.02).metrics["train_loss"]
    last = run(folder, tmp_path / "long", model=model, learning_rate=0.02, epochs=8).metrics["train_loss"]
    assert first is not None
    assert last is not None
    assert last < 0.6 * first
    for name, value in model.detector.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_two_runs_of_a_seed_are_the_same(folder: CocoFolder, tmp_path: Path) -> None:
    one, other = (run(folder, tmp_path / name) for name in ("one", "other"))
    assert one.metrics == other.metrics


def test_the_gradient_reaches_the_predictor_alone() -> None:
    model = small_model()
    model.detector.train()  # nothing is frozen here but by the loss itself
    predictor = IouPredictor(SMALL, features=16, classes=2)
    boxes = torch.tensor([[[10.0, 10, 60, 60], [30, 20, 120, 90]], [[20, 20, 50, 80], [0, 0, 0, 0]]])
    objects = Objects(boxes, torch.tensor([[0, 1], [1, -1]]), torch.zeros(2, 2, dtype=torch.bool))
    images = torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    loss = training_loss(
        DetectorFeatures(model.detector), predictor, Batch(images, objects), JitterSpec(per_image=16), generator
    )
    loss.backward()
    assert all(p.grad is None for p in model.detector.parameters())
    reached = {name for name, p in predictor.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
    assert reached == {name for name, _ in predictor.named_parameters()}


def test_boxes_of_a_detector_can_be_refined() -> None:
    model = small_model()
    predictor = IouPredictor(SMALL, features=16, classes=2)
    features = DetectorFeatures(model.detector)
    maps = features.maps(torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8))
    assert maps.shapes == ((12, 16), (6, 8), (3, 4))
    boxes = torch.tensor([[10.0, 10, 60, 60], [30, 20, 120, 90], [20, 20, 50, 80]])
    image, label = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    score = box_score(predictor, maps, boxes, image, label, features.levels)
    start = output_of_class(outputs_of_boxes(predictor, maps, boxes, image, features.levels), label)
    torch.testing.assert_close(score(boxes, torch.arange(3)), start)
    found = refine(score, boxes, torch.tensor([[96, 128]]).expand(3, 2), RefinementSpec())
    assert (found.output_R >= start.detach()).all()


def test_what_cannot_be_trained_is_said_before_it_starts(folder: CocoFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no use for schedule\.accumulate, schedule\.ema_decay"):
        run(folder, tmp_path / "run", accumulate=2, ema_decay=0.9)
    ssd = small_model(**SSD, fusion={"name": "classification"}, model__quality={"method": "none"})
    with pytest.raises(RunError, match="neck is ssd"):
        run(folder, tmp_path / "run", model=ssd)
    run(folder, tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        run(folder, tmp_path / "run")


def test_a_file_that_is_no_iou_net_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt holds no IoU-Net"):
        load_predictor(tmp_path / "other.ckpt")
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.ckpt cannot be read"):
        load_predictor(tmp_path / "broken.ckpt")


def test_epochs_are_logged(folder: CocoFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="calibox_training.iou_net.standalone"):
        run(folder, tmp_path / "run", epochs=2, decay="plateau")
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["epoch 1", "epoch 2"]


@pytest.mark.slow
def test_a_trained_predictor_moves_boxes_towards_their_objects(tmp_path: Path) -> None:
    """Ten seconds of training on features of a backbone that nothing was taught, and boxes it has not seen."""
    folder = make_coco_folder(tmp_path / "rectangles", train=48, val=24)
    model = small_model(model__backbone="resnet18", model__backbone_width=0.25, model__fpn_channels=32)
    schedule = Schedule(
        optimizer="adamw", learning_rate=2e-3, epochs=25, batch_size=8, warmup_iterations=10, decay="cosine"
    )
    settings = StandaloneSettings(
        output=tmp_path / "run",
        schedule=schedule,
        jitter=JitterSpec(per_image=64),
        predictor=PredictorSpec(width=128, initialisation="he"),
        accelerator="cpu",
        workers=0,
    )
    result = train_standalone(model, folder, settings)
    assert (result.metrics["pearson_localization"] or 0) > 0.35  # 0.56 was seen
    predictor = load_predictor(result.checkpoint)
    generator = torch.Generator().manual_seed(5)
    features = DetectorFeatures(model.detector)
    before, after = [], []
    for batch in validation_batches(CocoDataModule(model.recipe, folder, workers=0)):
        start = jittered_boxes(batch.objects, JitterSpec(per_image=30), height=96, width=128, generator=generator)
        maps = features.maps(batch.images)
        score = box_score(predictor, maps, start.boxes_R4, start.image_R, start.label_R, features.levels)
        size = torch.tensor([[96, 128]]).expand(len(start.boxes_R4), 2)
        found = refine(score, start.boxes_R4, size, RefinementSpec())
        before.append(true_iou(start.boxes_R4, start, batch.objects))
        after.append(true_iou(found.boxes_R4, start, batch.objects))
    assert float(torch.cat(after).mean() - torch.cat(before).mean()) > 0.01  # 0.024 was seen


def true_iou(boxes: torch.Tensor, start: JitteredBoxes, objects: Objects) -> torch.Tensor:
    """Best IoU of each box with an object of its class and image."""
    iou = batched_iou(objects.boxes_BG4, boxes).permute(0, 2, 1)[start.image_R, torch.arange(len(boxes))]
    return (iou * (objects.labels_BG[start.image_R] == start.label_R[:, None])).amax(dim=1)


def test_the_guide_runs() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "iou-net.md"
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(block, names)
    assert names["pooled"].shape == (2, 256, 7, 7)
    assert float(names["features"].grad.abs().sum()) > 0
    assert names["rois"].grad.shape == (2, 4)
    assert callable(names["add_iou_net"])
    images = torch.randint(0, 256, (1, 96, 128, 3), dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 10, 60, 60], [30, 20, 120, 90]])
    predictor = IouPredictor(SMALL, features=16, classes=2)
    moved, iou = names["refined"](
        small_model().detector, predictor, images, boxes, torch.tensor([0, 0]), torch.tensor([1, 0])
    )
    assert moved.shape == boxes.shape
    assert bool(((iou >= 0) & (iou <= 1)).all())

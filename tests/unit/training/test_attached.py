"""IoU-Net beside a detector that is known by its boxes alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from calibox_core.boxes import pairwise_iou
from calibox_core.errors import DatasetError
from calibox_core.manifest import InputSpec
from calibox_training.checkpoint import CheckpointError
from calibox_training.data.coco import Batch, ImageRecord, collate, read_classes, read_records
from calibox_training.data.transforms import TrainTransform
from calibox_training.iou_net.attached import (
    AttachedRecipe,
    AttachedRun,
    attached_loss,
    load_attached,
    train_attached,
)
from calibox_training.iou_net.features import outputs_of_boxes
from calibox_training.iou_net.foreign_boxes import (
    ForeignBoxes,
    apart,
    boxes_near_objects,
    boxes_of_results,
    read_results,
    with_boxes,
)
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.quality_backbone import QualityBackbone, QualityBackboneSpec
from calibox_training.machine import RunError
from calibox_training.objects import Objects
from calibox_training.recipe import parse_as
from calibox_training.training_spec import Augmentation
from tests.support.coco import make_coco_folder

NARROW = {"backbone_width": 0.125, "fpn_channels": 8}


def small_recipe(**changes: object) -> AttachedRecipe:
    values = {
        "name": "small",
        "data": {"name": "rectangles"},
        "input": {"height": 96, "width": 128},
        "features": NARROW,
        "predictor": {"width": 16, "pooled": 3, "initialisation": "he"},
        "jitter": {"per_image": 16},
        "schedule": {"optimizer": "adamw", "learning_rate": 3e-3, "epochs": 2, "batch_size": 4, "decay": "cosine"},
    }
    return parse_as(AttachedRecipe, values | changes, source="the small recipe")


def found_boxes(*rows: tuple[float, float, float, float], label: int = 0) -> ForeignBoxes:
    return ForeignBoxes(
        np.array(rows, np.float32).reshape(-1, 4), np.full(len(rows), label), np.full(len(rows), 0.5, np.float32)
    )


def record(*rows: tuple[float, float, float, float], label: int = 0) -> ImageRecord:
    boxes = np.array(rows, np.float32).reshape(-1, 4)
    return ImageRecord(1, "1.png", 128, 96, boxes, np.full(len(rows), label), np.zeros(len(rows), np.bool_))


def test_boxes_turn_over_with_their_objects() -> None:
    """Flips of both axes, by hand: x becomes 128 - x, y becomes 96 - y."""
    both = with_boxes(record((10, 20, 40, 50)), found_boxes((12, 22, 40, 50), (0, 0, 0, 9), label=1), classes=2)
    transform = TrainTransform(Augmentation(flip_horizontal=1, flip_vertical=1), InputSpec(height=96, width=128))
    objects, found = apart(collate([transform(np.zeros((96, 128, 3), np.uint8), both)]).objects, classes=2)
    assert objects.labels_BG.tolist() == [[0, -1]]
    assert found.labels_BG.tolist() == [[-1, 1]]  # the one without area is gone
    assert objects.boxes_BG4[0, 0].tolist() == [88, 46, 118, 76]
    assert found.boxes_BG4[0, 1].tolist() == [88, 46, 116, 74]


def test_boxes_near_objects_are_those_of_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(3, 9, 2, generator=generator) * 8
    boxes = torch.cat([corner, corner + 24 + torch.rand(3, 9, 2, generator=generator) * 8], dim=2)
    labels = torch.randint(-1, 4, (3, 9), generator=generator)  # 2 and 3 are boxes of the classes 0 and 1
    crowd = torch.rand(3, 9, generator=generator) < 0.2
    objects, found = apart(Objects(boxes, labels, crowd & (labels < 2)), classes=2)
    near = boxes_near_objects(objects, found, least_iou=0.5)
    expected = []
    for image in range(3):
        for row in range(9):
            if labels[image, row] < 2:
                continue
            same = (labels[image] == labels[image, row] - 2) & ~crowd[image]
            iou = pairwise_iou(boxes[image, row : row + 1].numpy(), boxes[image, same].numpy())
            if iou.max(initial=0) >= 0.5:
                expected.append((image, int(labels[image, row]) - 2, round(float(iou.max()), 5)))
    assert len(expected) > 3
    rounded = [round(value, 5) for value in near.iou_R.tolist()]
    assert list(zip(near.image_R.tolist(), near.label_R.tolist(), rounded, strict=True)) == expected


def test_no_objects_and_no_boxes_are_no_special_case() -> None:
    nothing = Objects(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    near = boxes_near_objects(*apart(nothing, classes=2), least_iou=0.5)
    assert [len(value) for value in near] == [0, 0, 0, 0]
    empty = with_boxes(record(), found_boxes(), classes=2)
    assert (empty.boxes.shape, len(empty.labels), len(empty.crowd)) == ((0, 4), 0, 0)


def test_the_backbone_gives_the_levels_that_it_says() -> None:
    images = torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8)
    for finest, shapes in ((2, ((24, 32), (12, 16), (6, 8), (3, 4))), (3, ((12, 16), (6, 8), (3, 4)))):
        features = QualityBackbone(QualityBackboneSpec(**NARROW, finest=finest))
        maps = features.maps(images)
        assert maps.shapes == shapes
        assert maps.pixels_MF.shape[1] == features.channels == 8
        assert len(features.levels.scales) == len(shapes)
    with pytest.raises(ValueError, match="vgg16 has no map at stride 32"):
        QualityBackboneSpec(backbone="vgg16")


def batch() -> Batch:
    """Two images; the first has an object, a box near it and one beside it, the second an object alone."""
    first = [[10.0, 10, 50, 60], [12, 10, 50, 64], [80, 10, 120, 60]]
    boxes = torch.tensor([first, [[20.0, 20, 50, 80], [0, 0, 0, 0], [0, 0, 0, 0]]])
    objects = Objects(boxes, torch.tensor([[1, 3, 3], [0, -1, -1]]), torch.zeros(2, 3, dtype=torch.bool))
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8, generator=generator), objects)


def test_the_loss_of_the_detectors_boxes_is_that_of_its_hits_alone() -> None:
    """With a share of 1 there is one training box, 12..50 x 10..64 on 10..50 x 10..60: IoU 1900 / 2152."""
    torch.manual_seed(0)
    recipe = small_recipe(detector_share=1.0)
    features = QualityBackbone(recipe.features).eval()
    predictor = IouPredictor(recipe.predictor, features=8, classes=2)
    loss = attached_loss(features, predictor, batch(), recipe, torch.Generator().manual_seed(0))
    box = torch.tensor([[12.0, 10, 50, 64]])
    maps = features.maps(batch().images)
    output = outputs_of_boxes(predictor, maps, box, torch.tensor([0]), features.levels)[0, 1]
    gap = abs(float(output.detach()) - (2 * 1900 / 2152 - 1))
    smooth = gap**2 / 2 if gap < 1 else gap - 0.5
    assert float(loss.detach()) == pytest.approx(5 * smooth, rel=1e-4)


def test_the_gradient_reaches_backbone_and_predictor() -> None:
    torch.manual_seed(0)
    recipe = small_recipe()
    features = QualityBackbone(recipe.features)
    predictor = IouPredictor(recipe.predictor, features=8, classes=2)
    attached_loss(features, predictor, batch(), recipe, torch.Generator().manual_seed(0)).backward()
    for name in ("backbone.conv1.weight", "fpn.inner_blocks.0.0.weight"):
        gradient = features.get_parameter(name).grad
        assert gradient is not None
        assert float(gradient.abs().sum()) > 0
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in predictor.parameters())


def test_a_run_leaves_a_whole_model(tmp_path: Path) -> None:
    folder = make_coco_folder(tmp_path / "rectangles")
    found = [found_boxes((10, 10, 60, 60))] * 8
    output = tmp_path / "run"
    run = AttachedRun(output=output, accelerator="cpu", workers=0)
    path = train_attached(small_recipe(), folder, found, {"file": "detector.onnx"}, run)
    model = load_attached(path)
    assert [c.name for c in model.classes] == ["red", "blue"]
    assert (model.recipe, model.detector) == (small_recipe(), {"file": "detector.onnx"})
    assert json.loads((output / "metrics.json").read_text()) == model.metrics
    assert not model.features.training
    assert not model.predictor.training
    # Statistics of the batch norms moved with the training, and are in the file.
    assert float(model.features.get_buffer("backbone.bn1.running_mean").abs().sum()) > 0
    with pytest.raises(RunError, match="holds a run already"):
        train_attached(small_recipe(), folder, found, {}, run)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt was not written by `calibox attach-quality`"):
        load_attached(tmp_path / "other.ckpt")


def test_results_become_boxes_of_their_images(tmp_path: Path) -> None:
    folder = make_coco_folder(tmp_path / "rectangles", train=4, val=2)
    document = folder.annotations("val")
    classes, records = read_classes(document), read_records(document, read_classes(document))
    rows = [
        {"image_id": 6, "category_id": 5, "bbox": [10, 20, 30, 40], "score": 0.25},
        {"image_id": 6, "category_id": 6, "bbox": [100, 60, 50, 50], "score": 0.75},
    ]
    first, second = boxes_of_results(rows, records, classes, source="results")
    assert len(first.p_N) == 0
    assert second.p_N.tolist() == [0.75, 0.25]
    assert second.labels_N.tolist() == [1, 0]
    assert second.boxes_N4.tolist() == [[100, 60, 128, 96], [10, 20, 40, 60]]  # cut to the image


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 77}, "detection 0: no image 77 in this split"),
        ({"category_id": 1}, "detection 0: no category 1 in the data set, whose ids are 5, 6"),
        ({"bbox": [1, 2, 3]}, "bbox must be four finite numbers"),
        ({"score": 1.5}, "score must be within 0..1, got 1.5"),
    ],
)
def test_results_that_do_not_fit_are_named(change: dict[str, object], sentence: str, tmp_path: Path) -> None:
    folder = make_coco_folder(tmp_path / "rectangles", train=4, val=2)
    document = folder.annotations("val")
    classes, records = read_classes(document), read_records(document, read_classes(document))
    row = {"image_id": 6, "category_id": 5, "bbox": [10, 20, 30, 40], "score": 0.25}
    with pytest.raises(DatasetError, match=sentence):
        boxes_of_results([row | change], records, classes, source="results")
    with pytest.raises(DatasetError, match="detection 0: it lacks score"):
        boxes_of_results([{k: v for k, v in row.items() if k != "score"}], records, classes, source="results")
    with pytest.raises(DatasetError, match="must be a list of detections"):
        boxes_of_results({"annotations": []}, records, classes, source="results")
    with pytest.raises(DatasetError, match=r"absent\.json cannot be read"):
        read_results(tmp_path / "absent.json", records, classes)

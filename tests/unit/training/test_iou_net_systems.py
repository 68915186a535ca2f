"""A single-stage detector as IoU-Net sees it."""

import torch

from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_training.checkpoint import TrainedModel
from calibox_training.inference import CandidateGraph
from calibox_training.iou_net.systems import CANDIDATE_FLOOR, SingleStageSystem, candidates_above_floor
from calibox_training.models.detector import Detector
from tests.support.recipes import tiny_recipe


def system() -> SingleStageSystem:
    torch.manual_seed(0)
    recipe = tiny_recipe(model__quality={"method": "none"}, fusion={"name": "classification"}, per_level_top_k=20)
    detector = Detector(recipe.model, classes=2).eval().requires_grad_(False)
    with torch.no_grad():
        detector.head.class_conv.weight.mul_(50)  # so that scores spread around the floor
    classes = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))
    dataset = DatasetInfo(name="rectangles", license="CC0-1.0", train_images=8, val_images=4, sha256="0" * 64)
    return SingleStageSystem(TrainedModel(detector, recipe, classes, dataset, commit="unknown", metrics={}))


def test_candidates_are_the_pairs_above_the_floor_of_each_levels_best_anchors() -> None:
    one = system()
    images = torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = one.candidates(images)
    graph = CandidateGraph(one.model.detector, height=96, width=128, per_level_top_k=20)
    boxes, p, _ = graph(images, torch.tensor([[1.0, 0.0, 0.0]] * 2))
    expected = [
        (b, label, float(p[b, a, label]), boxes[b, a].tolist())
        for b in range(2)
        for a in range(p.shape[1])
        for label in range(2)
        if float(p[b, a, label]) > CANDIDATE_FLOOR
    ]
    assert 0 < len(expected) < p.numel()
    assert found.image_R.tolist() == [row[0] for row in expected]
    assert found.label_R.tolist() == [row[1] for row in expected]
    torch.testing.assert_close(found.p_R, torch.tensor([row[2] for row in expected]))
    torch.testing.assert_close(found.boxes_R4, torch.tensor([row[3] for row in expected]))
    assert one.regress(images, found) is None
    assert one.input.height == 96


def test_a_batch_without_candidates_gives_empty_tensors() -> None:
    found = candidates_above_floor(torch.zeros(2, 3, 1, 4), torch.full((2, 3, 1), CANDIDATE_FLOOR))
    assert [tuple(values.shape) for values in found] == [(0, 4), (0,), (0,), (0,)]

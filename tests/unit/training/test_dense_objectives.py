"""The losses of whole systems, anchor by anchor."""

import math

import pytest
import torch

from calibox_training.assigner import build_assigner
from calibox_training.box_coder import centerness
from calibox_training.criterion import Losses
from calibox_training.losses import distribution_focal_loss, giou_loss, quality_focal_loss, score_logs
from calibox_training.models.detector import Detector
from calibox_training.models.heads import HeadOutput
from calibox_training.recipe import Recipe
from tests.support.systems import SIZE, batch, run, system


def _positives(recipe: Recipe, detector: Detector) -> list[tuple[int, int]]:
    """(image, anchor) of every positive; each image of the batch has one object."""
    _, objects = batch()
    given = build_assigner(recipe.model.assigner)(
        detector.anchors(*SIZE), objects.boxes_BG4, objects.labels_BG >= 0, objects.crowd_BG
    )
    return [(image, anchor) for image, anchor in given.positive_BA.nonzero().tolist()]


def _box(recipe: Recipe, detector: Detector, found: HeadOutput, image: int, anchor: int) -> torch.Tensor:
    anchors = detector.anchors(*SIZE)
    return detector.coder.decode(
        found.box_BAV[image, anchor].detach(), anchors.boxes_A4[anchor], anchors.stride_A[anchor]
    )


def _iou(box: torch.Tensor, truth: torch.Tensor) -> float:
    sides = [max(0.0, float(min(box[2 + i], truth[2 + i]) - max(box[i], truth[i]))) for i in range(2)]
    common = sides[0] * sides[1]
    area = [float((b[2] - b[0]) * (b[3] - b[1])) for b in (box, truth)]
    return common / (sum(area) - common)


@pytest.mark.parametrize("name", ["clq", "clq_paper", "clq_unaligned", "clq_atss"])
def test_the_joint_loss_is_the_quality_focal_loss_of_the_joint_score(name: str) -> None:
    recipe = system(name)
    detector, found, losses = run(recipe)
    _, objects = batch()
    target = torch.zeros_like(found.class_BAC)
    positives = _positives(recipe, detector)
    for image, anchor in positives:
        box = _box(recipe, detector, found, image, anchor)
        target[image, anchor, objects.labels_BG[image, 0]] = _iou(box, objects.boxes_BG4[image, 0])
    assert found.quality_BAQ is not None
    score = score_logs(found.class_BAC, found.quality_BAQ, alpha=0.3)
    expected = quality_focal_loss(score, target, beta=2.0).sum() / len(positives)
    torch.testing.assert_close(losses.classification, expected)


def _weight(weighting: str, recipe: Recipe, detector: Detector, found: HeadOutput, image: int, anchor: int) -> float:
    if weighting == "uniform":
        return 1.0
    if weighting == "centerness":
        truth = batch()[1].boxes_BG4[image, 0]
        return float(centerness(truth, detector.anchors(*SIZE).boxes_A4[anchor]))
    assert found.quality_BAQ is not None
    p = max(1 / (1 + math.exp(-x)) for x in found.class_BAC[image, anchor].tolist())
    return p * (1 / (1 + math.exp(-found.quality_BAQ[image, anchor, 0].item()))) ** 0.3


@pytest.mark.parametrize("weighting", ["uniform", "score", "centerness"])
def test_the_box_loss_of_clq_is_a_weighted_mean_over_positives(weighting: str) -> None:
    """GIoU doubled, and a quarter of the mean over the four sides of the distributions' loss."""
    recipe = system("clq", loss__box_weight=2.0, loss__box_weighting=weighting)
    detector, found, losses = run(recipe)
    assert isinstance(losses, Losses)
    _, objects = batch()
    anchors, total, weights = detector.anchors(*SIZE), 0.0, 0.0
    for image, anchor in _positives(recipe, detector):
        truth = objects.boxes_BG4[image, 0]
        giou = float(giou_loss(_box(recipe, detector, found, image, anchor), truth))
        centre = anchors.centre_A2[anchor]
        sides = torch.cat([centre - truth[:2], truth[2:] - centre]) / anchors.stride_A[anchor]
        bins = found.box_BAV[image, anchor].detach().view(4, -1)
        spread = float(distribution_focal_loss(bins, sides.clamp(0, recipe.model.box.reg_max - 0.1)).mean())
        weight = _weight(weighting, recipe, detector, found, image, anchor)
        total += weight * (2 * giou + 0.25 * spread)
        weights += weight
    assert losses.box.item() == pytest.approx(total / weights, rel=1e-4)

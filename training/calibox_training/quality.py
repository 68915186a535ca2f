"""What a quality branch learns, from which anchors, and the localization score that its values mean.

Letters: B images, A anchors, Q raw values per anchor.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.assigner import IGNORED, Assignment
from calibox_training.box_coder import centerness
from calibox_training.led.coding import localization_score
from calibox_training.led.loss import led_loss
from calibox_training.losses import ScoreLogs, iou_bce_loss, iou_l2_loss, quality_focal_loss, score_logs, smooth_l1_loss
from calibox_training.models.heads import HeadOutput
from calibox_training.objects import Objects
from calibox_training.quality_spec import (
    CenternessQuality,
    ElementwiseBranch,
    IouAwareQuality,
    LaarQuality,
    LedQuality,
    LqeQuality,
    NoQuality,
    QualityBranch,
)

# LAAR names "a common regression loss"; beta as for its boxes (the RetinaNet code that it builds on).
LAAR_BETA = 1 / 9
LAAR_FOCUS = 2.0  # exponent of its soft focal loss, the gamma of the classification loss


class Matches(NamedTuple):
    """Each anchor's object, and how the prediction fits it; zeros where there is none."""

    assignment: Assignment
    anchors_A4: Tensor
    object_BA4: Tensor  # boxes
    label_BA: Tensor  # int64, -1 without an object
    iou_BA: Tensor  # of the decoded box with the object; carries the gradient into the box branch


def quality_scores(branch: QualityBranch, quality_BAQ: Tensor) -> Tensor:
    """Localization scores, float32 ``[B, A, 1]`` in 0..1, of what the branch put out."""
    if isinstance(branch, LedQuality):
        return localization_score(branch, quality_BAQ)
    return quality_BAQ.float().sigmoid()


def quality_term(
    branch: QualityBranch,
    found: HeadOutput,
    matches: Matches,
    objects: Objects,
    decoded_BA4: Tensor,
    count: Tensor,
) -> Tensor:
    """A branch's loss as a scalar, not yet weighted.

    Args:
        objects: of the batch, for branches that choose their own samples.
        decoded_BA4: boxes of all anchors in pixels, with their gradient.
        count: positives per process, at least 1, by which sums over positives are divided.
    """
    if isinstance(branch, LedQuality):
        assert found.quality_BAQ is not None  # the head has a branch where the recipe names one
        known_BA = matches.assignment.object_BA != IGNORED
        return led_loss(branch, found.quality_BAQ, decoded_BA4, objects, known_BA)
    return quality_loss(branch, found.quality_BAQ, matches).sum() / count


def quality_loss(branch: ElementwiseBranch, logits_BA1: Tensor | None, matches: Matches) -> Tensor:
    """Elements ``[B, A]`` of a branch's loss, 0 where an anchor teaches it nothing."""
    if isinstance(branch, NoQuality) or logits_BA1 is None:
        return torch.zeros_like(matches.iou_BA)
    positive_BA, logits_BA = matches.assignment.positive_BA, logits_BA1[..., 0]
    match branch:
        case IouAwareQuality():
            compare = iou_bce_loss if branch.loss == "bce" else iou_l2_loss
            target_BA = matches.iou_BA.detach() if branch.detach_target else matches.iou_BA
            return compare(logits_BA, target_BA) * positive_BA
        case LqeQuality():
            return iou_bce_loss(logits_BA, matches.iou_BA.detach()) * positive_BA
        case CenternessQuality():
            return iou_bce_loss(logits_BA, centerness(matches.object_BA4, matches.anchors_A4)) * positive_BA
        case LaarQuality():
            return _laar_loss(branch, logits_BA, matches.assignment)


def _laar_loss(branch: LaarQuality, logits_BA: Tensor, assignment: Assignment) -> Tensor:
    """Against the anchor's own IoU, with whatever object it overlaps most."""
    target_BA = assignment.iou_BA
    if branch.loss == "focal_soft":
        score: ScoreLogs = score_logs(logits_BA, logits_BA, alpha=0)
        return quality_focal_loss(score, target_BA, beta=LAAR_FOCUS) * (assignment.object_BA != IGNORED)
    if branch.loss == "bce_pos":
        return iou_bce_loss(logits_BA, target_BA) * assignment.positive_BA
    return smooth_l1_loss(logits_BA.float().sigmoid(), target_BA, beta=LAAR_BETA) * assignment.positive_BA

"""Losses as functions that return elements; the criterion alone weighs, masks and divides.

Everything runs in float32, whatever the autocast: halves lose the tails of the logarithms.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

# The joint score stays this far below 1 in logarithm, so that the logarithm of what it lacks to 1 is finite.
LARGEST_LOG_SCORE = -1e-7
VFL_ALPHA, VFL_GAMMA = 0.75, 2.0  # VarifocalNet, arXiv 2008.13367, and its code
MAL_GAMMA = 1.5  # DEIM, arXiv 2412.04234, and its code
IA_BCE_ALPHA, IA_BCE_GAMMA = 0.25, 2.0  # Align-DETR, arXiv 2304.07527, and its code
IA_BCE_SMALLEST_TARGET = 0.01  # the same authors' code


class ScoreLogs(NamedTuple):
    """A score r in logarithms, float32, any shape."""

    yes: Tensor  # log r
    no: Tensor  # log (1 - r)


def score_logs(class_logits: Tensor, quality_logits: Tensor, *, alpha: float) -> ScoreLogs:
    """The joint score r = p * q^alpha of CLQ, from logits that broadcast; alpha 0 leaves p alone.

    Gradients reach both logits. Source: CLQ, eq. 2 and 3; in logarithms, where no large logit saturates.
    """
    class_logits = class_logits.float()
    log_p = F.logsigmoid(class_logits)
    if alpha == 0:
        return ScoreLogs(log_p, F.logsigmoid(-class_logits))
    joint = (log_p + alpha * F.logsigmoid(quality_logits.float())).clamp(max=LARGEST_LOG_SCORE)
    return ScoreLogs(joint, _log_of_rest(joint))


def _log_of_rest(log: Tensor) -> Tensor:
    """log(1 - exp(log)) for negative values, exact at either end (Mächler, Accurately computing log(1 - exp(-a)))."""
    half = -math.log(2)
    near = log > half
    # Each branch sees harmless values where the other is taken: a gradient of infinity times 0 would be NaN.
    above = (-torch.where(near, log, half).expm1()).log()
    below = (-torch.where(near, half, log).exp()).log1p()
    return torch.where(near, above, below)


def soft_bce(score: ScoreLogs, target: Tensor) -> Tensor:
    """Cross entropy of a score against a target in 0..1, not reduced."""
    return -(target * score.yes + (1 - target) * score.no)


def quality_focal_loss(score: ScoreLogs, target: Tensor, *, beta: float) -> Tensor:
    """|r - y|^beta * BCE(r, y), not reduced. Source: Li et al., Generalized Focal Loss, arXiv 2006.04388, eq. 3."""
    return (score.yes.exp() - target).abs() ** beta * soft_bce(score, target)


def varifocal_loss(score: ScoreLogs, target: Tensor) -> Tensor:
    """BCE(r, y) weighed by y where y > 0, else by alpha * r^gamma. Source: VarifocalNet, arXiv 2008.13367, eq. 2."""
    weight = torch.where(target > 0, target, VFL_ALPHA * (VFL_GAMMA * score.yes).exp())
    return weight * soft_bce(score, target)


def matchability_aware_loss(score: ScoreLogs, target: Tensor, positive: Tensor) -> Tensor:
    """BCE(r, y^gamma) on positives, else r^gamma * BCE(r, 0), not reduced. Source: DEIM, arXiv 2412.04234.

    The weight r^gamma takes no gradient, as in the authors' code.
    """
    weight = torch.where(positive, 1.0, (MAL_GAMMA * score.yes.detach()).exp())
    return weight * soft_bce(score, target**MAL_GAMMA)


def iou_aware_bce_loss(score: ScoreLogs, target: Tensor, positive: Tensor) -> Tensor:
    """BCE(r, t), t = r^alpha * y^(1 - alpha) held fixed, on positives, else r^gamma * BCE(r, 0), not reduced.

    Source: Align-DETR, arXiv 2304.07527; an anchor has one object, so its rank weight is 1.
    """
    mixed = (IA_BCE_ALPHA * score.yes.detach()).exp() * target ** (1 - IA_BCE_ALPHA)
    mixed = mixed.clamp(min=IA_BCE_SMALLEST_TARGET)
    background = -(IA_BCE_GAMMA * score.yes).exp() * score.no
    return torch.where(positive, soft_bce(score, mixed), background)


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss, any shape, not reduced. Source: Lin et al., Focal Loss, arXiv 1708.02002, eq. 5."""
    loss: Tensor = sigmoid_focal_loss(logits.float(), targets.float(), alpha=alpha, gamma=gamma, reduction="none")
    return loss


def mined_cross_entropy(logits_BAC: Tensor, label_BA: Tensor, candidate_BA: Tensor, *, negative_ratio: float) -> Tensor:
    """Cross entropy of softmax scores on positives and on the hardest background of each image, ``[B, A]``, else 0.

    An image with P positives keeps the ``negative_ratio * P`` background anchors of the largest loss, ties by index; an
    image without any keeps none. Source: SSD, arXiv 1512.02325, section 2.2.

    Args:
        logits_BAC: column 0 is the background.
        label_BA: int64 column of each anchor's class, 0 for background.
        candidate_BA: bool, the background anchors that may be kept.
    """
    logs_BAC = logits_BAC.float().log_softmax(dim=-1)
    loss_BA = -logs_BAC.gather(-1, label_BA[..., None])[..., 0]
    hard_BA = torch.where(candidate_BA, -logs_BAC[..., 0].detach(), -1.0)  # a loss is at least 0
    order_BA = hard_BA.argsort(dim=1, descending=True, stable=True)
    place_A = torch.arange(order_BA.shape[1], device=order_BA.device)
    rank_BA = torch.empty_like(order_BA).scatter_(1, order_BA, place_A.expand_as(order_BA))
    positive_BA = label_BA > 0
    kept_BA = (rank_BA < negative_ratio * positive_BA.sum(dim=1, keepdim=True)) & candidate_BA
    return loss_BA * (positive_BA | kept_BA)


def smooth_l1_loss(predicted: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """Smooth L1, quadratic below ``beta``, not reduced. Source: IoU-aware RetinaNet, eq. 2."""
    return F.smooth_l1_loss(predicted.float(), targets.float(), beta=beta, reduction="none")


def giou_loss(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - GIoU of boxes with their partners, ``[..., 4], [..., 4] -> [...]``. Source: arXiv 1902.09630."""
    loss: Tensor = generalized_box_iou_loss(boxes.float(), targets.float(), reduction="none")
    return loss


def distribution_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with the two bins around a distance, ``[..., bins], [...] -> [...]``.

    Source: Generalized Focal Loss, eq. 6. ``target`` lies in 0 to (less than) bins - 1.
    """
    logs, target = logits.float().log_softmax(dim=-1), target.float()
    low = target.detach().floor().long().clamp(0, logits.shape[-1] - 2)
    left, right = (logs.gather(-1, (low + step)[..., None])[..., 0] for step in (0, 1))
    share = target - low
    return -((1 - share) * left + share * right)


def iou_bce_loss(logits: Tensor, iou: Tensor) -> Tensor:
    """Cross entropy of a predicted IoU against the true one, not reduced. Source: IoU-aware RetinaNet, eq. 3.

    The gradient reaches ``iou`` when the caller did not detach it: dL/d iou = -logit.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), iou.float(), reduction="none")


def iou_l2_loss(logits: Tensor, iou: Tensor) -> Tensor:
    """Squared error of a predicted IoU, not reduced. Source: IoU-aware RetinaNet, Table 2."""
    return (logits.float().sigmoid() - iou.float()) ** 2

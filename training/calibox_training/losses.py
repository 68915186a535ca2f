"""Losses as functions that return elements; the criterion alone weighs, masks and divides.

Everything runs in float32, whatever the autocast: halves lose the tails of the logarithms.
"""

import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss


def focal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss, any shape, not reduced. Source: Lin et al., Focal Loss, arXiv 1708.02002, eq. 5."""
    loss: Tensor = sigmoid_focal_loss(logits.float(), targets.float(), alpha=alpha, gamma=gamma, reduction="none")
    return loss


def smooth_l1_loss(predicted: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """Smooth L1, quadratic below ``beta``, not reduced. Source: IoU-aware RetinaNet, eq. 2."""
    return F.smooth_l1_loss(predicted.float(), targets.float(), beta=beta, reduction="none")


def iou_bce_loss(logits: Tensor, iou: Tensor) -> Tensor:
    """Cross entropy of a predicted IoU against the true one, not reduced. Source: IoU-aware RetinaNet, eq. 3.

    The gradient reaches ``iou`` when the caller did not detach it: dL/d iou = -logit.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), iou.float(), reduction="none")


def iou_l2_loss(logits: Tensor, iou: Tensor) -> Tensor:
    """Squared error of a predicted IoU, not reduced. Source: IoU-aware RetinaNet, Table 2."""
    return (logits.float().sigmoid() - iou.float()) ** 2

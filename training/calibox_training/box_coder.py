"""Boxes as deltas of anchors (R-CNN's code), and the box measures that losses need, in torch float32.

Letters: any leading shape ``...``; boxes ``[..., 4]`` are x1, y1, x2, y2 in pixels.
"""

import math

import torch
from torch import Tensor

# A predicted side grows by at most 1000/16, as in the R-CNN line of code; keeps exp finite at the start of training.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas (dx, dy in anchor sides; dw, dh logarithms) that turn ``anchors`` into ``boxes``; standard deviation 1."""
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre, size = _centre_and_size(boxes)
    size = size.clamp(min=1e-3)  # padding rows have no size; their deltas are masked but must be finite
    return torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`, in float32 whatever the autocast."""
    deltas = deltas.float()
    anchor_centre, anchor_size = _centre_and_size(anchors)
    centre = anchor_centre + deltas[..., :2] * anchor_size
    half = deltas[..., 2:].clamp(max=MAX_LOG_SCALE).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def aligned_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU of boxes with their partners, ``[..., 4], [..., 4] -> [...]``, differentiable, 0 where both are empty."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    common = (high - low).clamp(min=0).prod(dim=-1)
    union = _area(boxes) + _area(others) - common
    return common / union.clamp(min=1e-6)


def batched_intersection(boxes_BG4: Tensor, anchors_A4: Tensor) -> Tensor:
    """Common area of every object with every anchor, ``[B, G, A]``."""
    low = torch.maximum(boxes_BG4[:, :, None, :2], anchors_A4[:, :2])
    high = torch.minimum(boxes_BG4[:, :, None, 2:], anchors_A4[:, 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def batched_iou(boxes_BG4: Tensor, anchors_A4: Tensor) -> Tensor:
    """IoU of every object with every anchor, ``[B, G, A]`` in 0..1."""
    common = batched_intersection(boxes_BG4, anchors_A4)
    union = _area(boxes_BG4)[:, :, None] + _area(anchors_A4) - common
    return common / union.clamp(min=1e-6)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]

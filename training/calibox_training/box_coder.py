"""Codes of boxes against anchors, and the box measures that losses need, in torch float32.

Letters: any leading shape ``...``; boxes ``[..., 4]`` are x1, y1, x2, y2 in pixels; V values of a box's code.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from calibox_training.model_spec import BoxSpec

# A predicted side grows by at most 1000/16, as in the R-CNN line of code; keeps exp finite at the start of training.
MAX_LOG_SCALE = math.log(1000.0 / 16)


# Smallest distance whose logarithm is asked for, in strides: an anchor's centre may lie outside its object.
MIN_DISTANCE = 0.01
# A distance target stays this much below reg_max, so that it has a bin on either side (GFL's code).
BIN_MARGIN = 0.1


@dataclass(frozen=True, slots=True)
class BoxCoder:
    """A recipe's box coding: deltas, distances, or distributions of distances."""

    spec: BoxSpec

    @property
    def values(self) -> int:
        """V."""
        return 4 * (self.spec.reg_max + 1) if self.spec.coding == "dfl" else 4

    def encode(self, boxes: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
        """Targets ``[..., 4]`` of `smooth_l1` (deltas or log distances), or the distances in strides for `dfl`.

        Args:
            boxes: ``[..., 4]``.
            anchors: ``[..., 4]``.
            stride: ``[...]`` of each anchor's level, in pixels.
        """
        if self.spec.coding == "delta":
            deltas = encode_boxes(boxes, anchors)
            return torch.cat(
                [deltas[..., :2] / self.spec.centre_deviation, deltas[..., 2:] / self.spec.size_deviation], dim=-1
            )
        distances = _distances(boxes, anchors) / stride[..., None]
        if self.spec.coding == "ltrb":
            return distances.clamp(min=MIN_DISTANCE).log()
        return distances.clamp(min=0, max=self.spec.reg_max - BIN_MARGIN)

    def decode(self, code: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
        """Boxes ``[..., 4]`` of codes ``[..., V]``, in float32 whatever the autocast."""
        code = code.float()
        if self.spec.coding == "delta":
            units = [code[..., :2] * self.spec.centre_deviation, code[..., 2:] * self.spec.size_deviation]
            return decode_boxes(torch.cat(units, dim=-1), anchors)
        if self.spec.coding == "ltrb":
            distances = code.clamp(max=MAX_LOG_SCALE).exp()
        else:
            bins = self.distribution(code).softmax(dim=-1)
            distances = (bins * torch.arange(self.spec.reg_max + 1, device=code.device)).sum(dim=-1)
        distances = distances * stride[..., None]
        centre, _ = _centre_and_size(anchors)
        return torch.cat([centre - distances[..., :2], centre + distances[..., 2:]], dim=-1)

    def distribution(self, code: Tensor) -> Tensor:
        """Logits of the distances left, top, right and bottom: ``[..., V] -> [..., 4, reg_max + 1]``."""
        return code.reshape(*code.shape[:-1], 4, self.spec.reg_max + 1)


def centerness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """How central an anchor's centre lies in a box, ``[..., 4], [..., 4] -> [...]`` in 0..1, 0 outside of it.

    Source: Tian et al., FCOS, arXiv 1904.01355, eq. 3.
    """
    left, top, right, bottom = _distances(boxes, anchors).clamp(min=0).unbind(dim=-1)
    across = torch.minimum(left, right) / torch.maximum(left, right).clamp(min=1e-6)
    down = torch.minimum(top, bottom) / torch.maximum(top, bottom).clamp(min=1e-6)
    return (across * down).sqrt()


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
    union = area(boxes) + area(others) - common
    return common / union.clamp(min=1e-6)


def batched_intersection(boxes_BG4: Tensor, anchors_A4: Tensor) -> Tensor:
    """Common area of every object with every anchor, or with every box ``[B, A, 4]`` of its image: ``[B, G, A]``."""
    anchors = anchors_A4[..., None, :, :]
    low = torch.maximum(boxes_BG4[:, :, None, :2], anchors[..., :2])
    high = torch.minimum(boxes_BG4[:, :, None, 2:], anchors[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def batched_iou(boxes_BG4: Tensor, anchors_A4: Tensor) -> Tensor:
    """IoU of every object with every anchor, ``[B, G, A]`` in 0..1."""
    common = batched_intersection(boxes_BG4, anchors_A4)
    union = area(boxes_BG4)[:, :, None] + area(anchors_A4) - common
    return common / union.clamp(min=1e-6)


def area(boxes: Tensor) -> Tensor:
    """Areas ``[...]`` of boxes ``[..., 4]`` in square pixels, 0 where a side is negative."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def _centre_and_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def _distances(boxes: Tensor, anchors: Tensor) -> Tensor:
    """From the anchors' centres to the left, top, right and bottom sides; negative outside."""
    centre, _ = _centre_and_size(anchors)
    return torch.cat([centre - boxes[..., :2], boxes[..., 2:] - centre], dim=-1)

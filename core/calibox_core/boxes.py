"""Box geometry in numpy. Boxes are float arrays ``[..., 4]``: x1, y1, x2, y2 in pixels, continuous, without "+1".

An inverted box (x2 < x1 or y2 < y1) has area 0 and overlaps nothing.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def box_area(boxes: Floats) -> Floats:
    """Area in square pixels, ``[..., 4] -> [...]``, at least 0."""
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    area: Floats = sides[..., 0] * sides[..., 1]
    return area


def intersection_area(boxes: Floats, others: Floats) -> Floats:
    """Common area in square pixels of every pair, ``[N, 4], [M, 4] -> [N, M]``."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(high - low, 0)
    area: Floats = sides[..., 0] * sides[..., 1]
    return area


def pairwise_iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union of every pair, ``[N, 4], [M, 4] -> [N, M]`` in 0..1; 0 where both areas are 0."""
    common = intersection_area(boxes, others)
    union = box_area(boxes)[:, None] + box_area(others)[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def xywh_to_xyxy(boxes: Floats) -> Floats:
    """COCO's x, y, width, height to corners, any leading shape."""
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: Floats) -> Floats:
    """Corners to COCO's x, y, width, height, any leading shape."""
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def clip_boxes(boxes: Floats, *, width: float, height: float) -> Floats:
    """Boxes cut to the image ``0 <= x <= width``, ``0 <= y <= height``."""
    clipped: Floats = boxes.clip(0, np.array([width, height, width, height], dtype=boxes.dtype))
    return clipped

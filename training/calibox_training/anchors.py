"""Anchor boxes of a pyramid of maps: RetinaNet's grid, and SSD's default boxes."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.anchor_spec import Anchors, AnchorSpec, SsdAnchorSpec


class AnchorSet(NamedTuple):
    """Anchors of all levels in one row, finest level first."""

    boxes_A4: Tensor  # float32, x1, y1, x2, y2 in input pixels
    stride_A: Tensor  # float32, of the anchor's level, in input pixels
    counts: tuple[int, ...]  # anchors of each level

    def to(self, device: torch.device) -> "AnchorSet":
        """The same on a device."""
        return AnchorSet(self.boxes_A4.to(device), self.stride_A.to(device), self.counts)

    @property
    def centre_A2(self) -> Tensor:
        """Centres x, y in input pixels."""
        return (self.boxes_A4[:, :2] + self.boxes_A4[:, 2:]) / 2


class AnchorGrid:
    """Anchors of all levels, finest first; within a level by row, column, then ratio-major shape.

    The same order in which the heads flatten their maps.
    """

    def __init__(self, spec: AnchorSpec) -> None:
        self.spec = spec

    def __call__(
        self, shapes: Sequence[tuple[int, int]], strides: Sequence[int], *, size: tuple[int, int] | None = None
    ) -> AnchorSet:
        """Anchors of a pyramid.

        Args:
            shapes: height and width of each level's map.
            strides: of each level, in input pixels.
            size: height and width of the input, from which `whole_pixels` takes its steps.
        """
        steps: list[tuple[float, float]] = [(stride, stride) for stride in strides]
        if self.spec.whole_pixels and size is not None:
            steps = [(size[0] // h, size[1] // w) for h, w in shapes]
        rows = zip(shapes, strides, steps, strict=True)
        levels = [_tile(shape, step, self.spec.offset, self.shapes(stride)) for shape, stride, step in rows]
        return _joined(levels, strides)

    def shapes(self, stride: int) -> Tensor:
        """Anchors of one location around the origin, float32 ``[per_location, 4]`` in pixels."""
        sides = [self.spec.base_size * stride * scale for scale in self.spec.scales]
        if self.spec.whole_pixels:
            sides = [float(int(side)) for side in sides]
        halves = [
            (side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2) for ratio in self.spec.ratios for side in sides
        ]
        shapes = torch.tensor([(-w, -h, w, h) for w, h in halves])
        return shapes.round() if self.spec.whole_pixels else shapes


def default_boxes(spec: SsdAnchorSpec, shapes: Sequence[tuple[int, int]], *, size: tuple[int, int]) -> AnchorSet:
    """SSD's default boxes, finest first; within a level by row, column, then two squares and each ratio's pair.

    Source: SSD, arXiv 1512.02325, section 2.2, and the authors' code; torchvision's `DefaultBoxGenerator` for the
    inputs that both know, in pixels instead of shares of the input.

    Args:
        shapes: height and width of each level's map.
        size: height and width of the input, at which sides are clipped.
    """
    levels = []
    for number, (shape, step) in enumerate(zip(shapes, spec.steps, strict=True)):
        sides = torch.tensor(_default_sides(spec, number))  # width, height
        if spec.clip:
            sides = torch.minimum(sides, torch.tensor([float(size[1]), float(size[0])]))
        levels.append(_tile(shape, (step, step), 0.5, torch.cat([-sides / 2, sides / 2], dim=1)))
    return _joined(levels, spec.steps)


def _default_sides(spec: SsdAnchorSpec, level: int) -> list[tuple[float, float]]:
    own, following = spec.sizes[level : level + 2]
    between = math.sqrt(own * following)
    sides = [(own, own), (between, between)]
    for ratio in spec.ratios[level]:
        long, short = own * math.sqrt(ratio), own / math.sqrt(ratio)
        sides += [(long, short), (short, long)] if spec.inverses else [(long, short)]
    return sides


def lone_anchor(spec: Anchors) -> Tensor:
    """The one anchor of each location, in strides, float32 ``[4]``."""
    if not isinstance(spec, AnchorSpec):
        raise TypeError("default boxes have several sizes at each location")
    return AnchorGrid(spec).shapes(stride=1)[0]


def _tile(shape: tuple[int, int], step: tuple[float, float], offset: float, boxes: Tensor) -> Tensor:
    """Boxes around the origin at each position of a map, ``[n, 4] -> [h * w * n, 4]``."""
    y, x = (
        (torch.arange(count, dtype=torch.float32) + offset) * distance
        for count, distance in zip(shape, step, strict=True)
    )
    centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
    centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
    return (centres[:, :, None, :] + boxes).reshape(-1, 4)


def _joined(levels: list[Tensor], strides: Sequence[float]) -> AnchorSet:
    counts = tuple(len(level) for level in levels)
    spread = [torch.full((count,), float(stride)) for count, stride in zip(counts, strides, strict=True)]
    return AnchorSet(torch.cat(levels), torch.cat(spread), counts)

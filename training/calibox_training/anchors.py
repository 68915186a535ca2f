"""Anchor boxes of a feature pyramid."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.model_spec import AnchorSpec


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

    The same order in which `DenseHead` flattens its maps.
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
        steps = [(stride, stride) for stride in strides]
        if self.spec.whole_pixels and size is not None:
            steps = [(size[0] // h, size[1] // w) for h, w in shapes]
        levels = [self._level(*row) for row in zip(shapes, strides, steps, strict=True)]
        counts = tuple(len(level) for level in levels)
        spread = [torch.full((count,), float(stride)) for count, stride in zip(counts, strides, strict=True)]
        return AnchorSet(torch.cat(levels), torch.cat(spread), counts)

    def _level(self, shape: tuple[int, int], stride: int, step: tuple[int, int]) -> Tensor:
        y, x = (
            (torch.arange(count, dtype=torch.float32) + self.spec.offset) * distance
            for count, distance in zip(shape, step, strict=True)
        )
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
        return (centres[:, :, None, :] + self.shapes(stride)).reshape(-1, 4)

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

"""Anchor boxes of a feature pyramid."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from calibox_training.recipe import AnchorSpec


class AnchorGrid:
    """Anchors of all levels, finest first; within a level by row, column, then ratio-major shape.

    The same order in which `DenseHead` flattens its maps.
    """

    def __init__(self, spec: AnchorSpec) -> None:
        self.spec = spec

    @property
    def per_location(self) -> int:
        """Anchors at each position."""
        return len(self.spec.scales) * len(self.spec.ratios)

    def __call__(self, shapes: Sequence[tuple[int, int]], strides: Sequence[int]) -> list[Tensor]:
        """Anchors per level.

        Args:
            shapes: height and width of each level's map.
            strides: of each level, in input pixels.

        Returns: one float32 ``[h * w * per_location, 4]`` per level, x1, y1, x2, y2 in input pixels.
        """
        return [self._level(h, w, stride) for (h, w), stride in zip(shapes, strides, strict=True)]

    def _level(self, height: int, width: int, stride: int) -> Tensor:
        x = (torch.arange(width, dtype=torch.float32) + self.spec.offset) * stride
        y = (torch.arange(height, dtype=torch.float32) + self.spec.offset) * stride
        centre_y, centre_x = torch.meshgrid(y, x, indexing="ij")
        centres = torch.stack([centre_x, centre_y, centre_x, centre_y], dim=-1)
        return (centres[:, :, None, :] + self._shapes(stride)).reshape(-1, 4)

    def _shapes(self, stride: int) -> Tensor:
        side = self.spec.base_size * stride
        halves = [
            (side * scale / math.sqrt(ratio) / 2, side * scale * math.sqrt(ratio) / 2)
            for ratio in self.spec.ratios
            for scale in self.spec.scales
        ]
        return torch.tensor([(-w, -h, w, h) for w, h in halves])

"""SSD's head: one 3x3 convolution per level and branch, nothing shared between levels.

Letters: B images, A anchors of all levels (finest first), C classification columns, F channels, V values of a box's
code, Q raw values of the quality branch.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from calibox_training.box_coder import BoxCoder
from calibox_training.model_spec import ModelSpec
from calibox_training.models.heads import PRIOR, HeadOutput, by_anchor, class_columns
from calibox_training.models.localization_estimation import LocalizationEstimation
from calibox_training.models.ssd_layers import xavier
from calibox_training.quality_spec import LedQuality, NoQuality


class FeatureQuality(nn.Conv2d):
    """A quality branch that reads a level's feature alone: LAAR's, and one logit for any other method."""

    def forward(self, feature: Tensor, class_map: Tensor, box_map: Tensor) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        """``[B, F, H, W] -> [B, anchors * Q, H, W]``."""
        return super().forward(feature)


def quality_layers(spec: ModelSpec, channels: Sequence[int], *, classes: int) -> nn.ModuleList | None:
    """The quality branch of each level, called with the level's feature, class map and box map; None without a branch.

    Args:
        channels: F of each level.
        classes: C, the background's column included.
    """
    levels = zip(channels, spec.anchors.per_level, strict=True)
    match spec.quality:
        case NoQuality():
            return None
        case LedQuality() as branch:
            values = BoxCoder(spec.box).values
            return nn.ModuleList(
                LocalizationEstimation(count, anchors * classes, anchors * values, anchors, branch)
                for count, anchors in levels
            )
        case branch:
            return nn.ModuleList(
                FeatureQuality(count, anchors * branch.values, 3, padding=1) for count, anchors in levels
            ).apply(xavier)


class SingleHead(nn.Module):
    """Branches without towers. Weights start by Xavier's rule, biases at 0 (softmax) or the prior (sigmoid)."""

    def __init__(self, spec: ModelSpec, *, classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.columns, self.values = class_columns(spec, classes), BoxCoder(spec.box).values
        self.quality = spec.quality
        self.class_convs = _convolutions(spec, channels, self.columns)
        self.box_convs = _convolutions(spec, channels, self.values)
        self.apply(xavier)
        self.quality_convs = quality_layers(spec, channels, classes=self.columns)
        if spec.class_activation == "sigmoid":
            for conv in self.class_convs:
                nn.init.constant_(conv.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Predictions for maps ``[B, F, H, W]`` of all levels, flattened in the anchors' order."""
        class_maps = [conv(level) for conv, level in zip(self.class_convs, maps, strict=True)]
        box_maps = [conv(level) for conv, level in zip(self.box_convs, maps, strict=True)]
        quality = None
        if self.quality_convs is not None:
            inputs = zip(maps, class_maps, box_maps, strict=True)
            quality = self._joined(
                [
                    layer(*(value.detach() if self.quality.feature_detach else value for value in row))
                    for layer, row in zip(self.quality_convs, inputs, strict=True)
                ],
                self.quality.values,
            )
        return HeadOutput(self._joined(class_maps, self.columns), self._joined(box_maps, self.values), quality)

    @staticmethod
    def _joined(maps: Sequence[Tensor], values: int) -> Tensor:
        return torch.cat([by_anchor(level, values) for level in maps], dim=1)


def _convolutions(spec: ModelSpec, channels: Sequence[int], values: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Conv2d(count, anchors * values, 3, padding=1)
        for count, anchors in zip(channels, spec.anchors.per_level, strict=True)
    )

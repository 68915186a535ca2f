"""Towers shared by all levels, and the branches of every single-stage method on feature pyramids.

Letters: B images, A anchors of all levels (finest first), C classification columns, F channels, V values of a box's
code, Q raw values of the quality branch.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from calibox_training.anchors import lone_anchor
from calibox_training.box_coder import BoxCoder
from calibox_training.model_spec import ModelSpec
from calibox_training.models.alignment import FeatureAlignment

PRIOR = 0.01  # share of anchors that a fresh head believes to be objects (Focal Loss, section 4.1)
GROUPS = 32  # of group normalisation, as in FCOS, with at least 4 channels each: one alone has no variance in a 1x1 map
OFFSET_STD = 0.1  # of fresh offsets (CLQ's code): at 0.01 the taps would not move


class HeadOutput(NamedTuple):
    """Raw predictions: logits and codes, never probabilities or pixels."""

    class_BAC: Tensor  # classification logits; with softmax C is the classes and, in column 0, the background
    box_BAV: Tensor  # codes of the boxes, for `BoxCoder`
    quality_BAQ: Tensor | None  # what `quality_scores` turns into the localization score; None without a branch


def class_columns(spec: ModelSpec, classes: int) -> int:
    """C for so many classes."""
    return classes + (spec.class_activation == "softmax")


QualitySource = Literal["box", "class", "own"]


def quality_source(spec: ModelSpec) -> QualitySource | None:
    """The tower whose last feature the quality branch reads; None without a branch."""
    match spec.quality.method:
        case "none":
            return None
        case "laar":
            return "own"
        case "lqe":
            return "class" if spec.align else "box"
        case _:
            return "box"


class DenseHead(nn.Module):
    """A tower for classes, one for boxes, and one for quality where the method asks for it."""

    def __init__(self, spec: ModelSpec, *, classes: int, levels: int) -> None:
        super().__init__()
        channels, anchors, coder = spec.fpn_channels, spec.anchors.per_level[0], BoxCoder(spec.box)
        self.columns, self.values = class_columns(spec, classes), coder.values
        self.feature_detach = spec.quality.feature_detach
        self.source = quality_source(spec)
        self.class_tower = _tower(channels, spec.tower_depth, spec.norm)
        self.box_tower = _tower(channels, spec.tower_depth, spec.norm)
        self.quality_tower = _tower(channels, spec.tower_depth, spec.norm) if self.source == "own" else None
        self.class_conv = nn.Conv2d(channels, anchors * self.columns, 3, padding=1)
        self.box_conv = nn.Conv2d(channels, anchors * coder.values, 3, padding=1)
        self.quality_conv = nn.Conv2d(channels, anchors, 3, padding=1) if self.source else None
        self.align = FeatureAlignment(channels, coder, lone_anchor(spec.anchors)) if spec.align else None
        self.level_scales = nn.Parameter(torch.ones(levels)) if spec.box.level_scales else None
        self._initialise(sigmoid=spec.class_activation == "sigmoid")

    def _initialise(self, *, sigmoid: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if sigmoid:
            nn.init.constant_(self.class_conv.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]
        if self.align is not None:
            nn.init.normal_(self.align.offset.weight, std=OFFSET_STD)

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Predictions for maps ``[B, F, H, W]`` of all levels, flattened in the anchors' order."""
        classes, boxes, qualities = [], [], []
        for number, level in enumerate(maps):
            box_features = self.box_tower(level)
            code = self.box_conv(box_features)
            if self.level_scales is not None:
                code = code * self.level_scales[number]
            class_features = self.class_tower(level if self.align is None else self.align(level, code))
            classes.append(by_anchor(self.class_conv(class_features), self.columns))
            boxes.append(by_anchor(code, self.values))
            if self.quality_conv is not None:
                features = self._quality_features(level, box_features, class_features)
                qualities.append(by_anchor(self.quality_conv(features), 1))
        quality = torch.cat(qualities, dim=1) if qualities else None
        return HeadOutput(torch.cat(classes, dim=1), torch.cat(boxes, dim=1), quality)

    def _quality_features(self, level: Tensor, box_features: Tensor, class_features: Tensor) -> Tensor:
        features = {"own": level, "class": class_features}.get(self.source or "", box_features)
        if self.feature_detach:
            features = features.detach()
        return features if self.quality_tower is None else self.quality_tower(features)


def by_anchor(level: Tensor, values: int) -> Tensor:
    """``[B, anchors * values, H, W] -> [B, H * W * anchors, values]``."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, values)


def group_norm(channels: int) -> nn.GroupNorm:
    """Of so many channels, a multiple of 4."""
    return nn.GroupNorm(math.gcd(GROUPS, channels // 4), channels)


def _tower(channels: int, depth: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"))
        if norm == "group":
            layers.append(group_norm(channels))
        elif norm == "batch":
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)

"""RetinaNet's towers with the IoU branch of IoU-aware RetinaNet.

Letters: B images, A anchors of all levels (finest first), C classes, F channels.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

PRIOR = 0.01  # share of anchors that a fresh head believes to be objects (Focal Loss, section 4.1)
GROUPS = 32  # of group normalisation, as in FCOS, with at least 4 channels each: one alone has no variance in a 1x1 map


class HeadOutput(NamedTuple):
    """Raw predictions: logits, never probabilities."""

    class_BAC: Tensor  # classification logits
    delta_BA4: Tensor  # box deltas of the anchors
    quality_BA1: Tensor  # logit of the predicted IoU


class DenseHead(nn.Module):
    """Two towers shared by all levels: classes; boxes and quality on the last feature of the box tower."""

    def __init__(self, *, channels: int, classes: int, anchors: int, depth: int, norm: str) -> None:
        super().__init__()
        self.classes = classes
        self.class_tower = _tower(channels, depth, norm)
        self.box_tower = _tower(channels, depth, norm)
        self.class_conv = nn.Conv2d(channels, anchors * classes, 3, padding=1)
        self.box_conv = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.quality_conv = nn.Conv2d(channels, anchors, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_conv.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> HeadOutput:
        """Predictions for maps ``[B, F, H, W]`` of all levels, flattened in the order of `AnchorGrid`."""
        classes, deltas, qualities = [], [], []
        for level in maps:
            box_features = self.box_tower(level)
            classes.append(_by_anchor(self.class_conv(self.class_tower(level)), self.classes))
            deltas.append(_by_anchor(self.box_conv(box_features), 4))
            qualities.append(_by_anchor(self.quality_conv(box_features), 1))
        return HeadOutput(torch.cat(classes, dim=1), torch.cat(deltas, dim=1), torch.cat(qualities, dim=1))


def _by_anchor(level: Tensor, values: int) -> Tensor:
    """``[B, anchors * values, H, W] -> [B, H * W * anchors, values]``."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, values)


def _tower(channels: int, depth: int, norm: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=norm == "none"))
        if norm == "group":
            layers.append(nn.GroupNorm(math.gcd(GROUPS, channels // 4), channels))
        elif norm == "batch":
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)

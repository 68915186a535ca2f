"""The assembled single-stage detector: backbone, FPN, head, anchors."""

from collections import OrderedDict
from functools import lru_cache

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from calibox_training.anchors import AnchorGrid
from calibox_training.models.backbones import build_backbone
from calibox_training.models.heads import DenseHead, HeadOutput
from calibox_training.recipe import AnchorSpec, ModelSpec

STRIDES = (8, 16, 32, 64, 128)
# ImageNet statistics in 0..255, what torchvision's weights expect.
IMAGE_MEAN = (123.675, 116.28, 103.53)
IMAGE_STD = (58.395, 57.12, 57.375)


class Detector(nn.Module):
    """Backbone + FPN (P3 to P7) + towers. `forward` returns raw predictions, for training, evaluation and export."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, *, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.backbone, channels = build_backbone(spec)
        self.fpn = FeaturePyramidNetwork(channels, spec.fpn_channels, LastLevelP6P7(channels[-1], spec.fpn_channels))
        self.grid = AnchorGrid(spec.anchors)
        self.head = DenseHead(
            channels=spec.fpn_channels,
            classes=classes,
            anchors=self.grid.per_location,
            depth=spec.tower_depth,
            norm=spec.norm,
        )
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "Detector":
        """Keeps the backbone's statistics fixed when the recipe says so."""
        super().train(mode)
        if self.spec.frozen_statistics:
            self.backbone.eval()
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB ``[B, H, W, 3]`` to float32 ``[B, 3, H, W]``, channels last in memory."""
        planes = images.permute(0, 3, 1, 2).to(torch.float32)
        return (planes - self.mean) / self.std

    def forward(self, images: Tensor) -> HeadOutput:
        """Raw predictions for normalised images ``[B, 3, H, W]``."""
        maps: OrderedDict[str, Tensor] = self.backbone(images)
        found: HeadOutput = self.head(list(self.fpn(maps).values()))
        return found

    def anchors(self, height: int, width: int) -> list[Tensor]:
        """Anchors per level for an input of this size (multiples of nothing: maps round up as the layers do)."""
        return _anchors(self.grid.spec, height, width)


@lru_cache(maxsize=8)
def _anchors(spec: AnchorSpec, height: int, width: int) -> list[Tensor]:
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return AnchorGrid(spec)(shapes, STRIDES)

"""The assembled single-stage detector: backbone, FPN, head, anchors."""

from collections import OrderedDict
from functools import lru_cache

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from calibox_training.anchors import AnchorGrid, AnchorSet
from calibox_training.box_coder import BoxCoder
from calibox_training.model_spec import AnchorSpec, ModelSpec
from calibox_training.models.backbones import build_backbone
from calibox_training.models.heads import DenseHead, HeadOutput

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
        self.fpn = FeaturePyramidNetwork(channels, spec.fpn_channels, _top_levels(spec, channels[-1]))
        self.coder = BoxCoder(spec.box)
        self.grid = AnchorGrid(spec.anchors)
        self.head = DenseHead(spec, classes=classes, levels=len(STRIDES))
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

    def anchors(self, height: int, width: int) -> AnchorSet:
        """Anchors for an input of this size (multiples of nothing: maps round up as the layers do)."""
        return _anchors(self.grid.spec, height, width)


def _top_levels(spec: ModelSpec, c5_channels: int) -> LastLevelP6P7:
    """P6 and P7 from C5 or from P5."""
    from_p5 = spec.pyramid_top == "p5"
    levels = LastLevelP6P7(spec.fpn_channels if from_p5 else c5_channels, spec.fpn_channels)
    levels.use_P5 = from_p5  # torchvision guesses it from the channel counts, which may happen to be equal
    return levels


@lru_cache(maxsize=8)
def _anchors(spec: AnchorSpec, height: int, width: int) -> AnchorSet:
    shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
    return AnchorGrid(spec)(shapes, STRIDES, size=(height, width))

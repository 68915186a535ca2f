"""The assembled single-stage detector: backbone, neck, head, anchors."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from calibox_training.anchor_spec import AnchorSpec
from calibox_training.anchors import AnchorGrid, AnchorSet, default_boxes
from calibox_training.box_coder import BoxCoder
from calibox_training.model_spec import ModelSpec
from calibox_training.models.backbones import build_backbone
from calibox_training.models.heads import DenseHead, HeadOutput
from calibox_training.models.single_head import SingleHead
from calibox_training.models.ssd_layers import SsdLayers
from calibox_training.pyramid import STRIDES, map_shapes

# Mean and deviation of R, G, B in 0..255: what torchvision's weights expect. Its SSD rounds the mean to five places
# of 0..1.
NORMALISATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "ssd": ((0.48235 * 255, 0.45882 * 255, 0.40784 * 255), (1.0, 1.0, 1.0)),
}


class Detector(nn.Module):
    """Backbone, neck and head. `forward` returns raw predictions, for training, evaluation and export."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: ModelSpec, *, classes: int) -> None:
        super().__init__()
        self.spec = spec
        self.backbone, channels = build_backbone(spec)
        # Two names, because checkpoints and `schedule.freeze` use them: one of the two is None.
        self.fpn = _pyramid(spec, channels) if spec.neck == "fpn" else None
        self.ssd = SsdLayers(spec, channels) if spec.neck == "ssd" else None
        self.coder = BoxCoder(spec.box)
        widths = [spec.fpn_channels] * len(STRIDES) if self.ssd is None else self.ssd.channels
        self.head = (
            SingleHead(spec, classes=classes, channels=widths)
            if spec.head == "single"
            else DenseHead(spec, classes=classes, levels=len(STRIDES))
        )
        mean, std = NORMALISATIONS[spec.normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "Detector":
        """Keeps the backbone's statistics fixed when the recipe says so."""
        super().train(mode)
        if self.spec.frozen_statistics:
            self.backbone.eval()
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 RGB ``[B, H, W, 3]`` to float32 ``[B, 3, H, W]``, channels last in memory."""
        return normalised(images, self.mean, self.std)

    def forward(self, images: Tensor) -> HeadOutput:
        """Raw predictions for normalised images ``[B, 3, H, W]``."""
        maps = self.backbone(images)
        found: HeadOutput = self.head(self._levels(maps))
        return found

    def _levels(self, maps: dict[str, Tensor]) -> list[Tensor]:
        if self.ssd is not None:
            levels: list[Tensor] = self.ssd(maps)
            return levels
        assert self.fpn is not None  # one of the two is there
        return list(self.fpn(maps).values())

    def anchors(self, height: int, width: int) -> AnchorSet:
        """Anchors for an input of this size (multiples of nothing: maps round as the layers do).

        Raises:
            ValueError: the input is too small for the neck.
        """
        return _anchors(self.spec, height, width)


def normalised(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 RGB ``[B, H, W, 3]`` to float32 ``[B, 3, H, W]``, channels last in memory; statistics ``[3, 1, 1]``."""
    return (images.permute(0, 3, 1, 2).to(torch.float32) - mean) / std


def _pyramid(spec: ModelSpec, channels: list[int]) -> FeaturePyramidNetwork:
    """P3 to P7, P6 from C5 or from P5."""
    from_p5 = spec.pyramid_top == "p5"
    top = LastLevelP6P7(spec.fpn_channels if from_p5 else channels[-1], spec.fpn_channels)
    top.use_P5 = from_p5  # torchvision guesses it from the channel counts, which may happen to be equal
    return FeaturePyramidNetwork(channels, spec.fpn_channels, top)


@lru_cache(maxsize=8)
def _anchors(spec: ModelSpec, height: int, width: int) -> AnchorSet:
    shapes = map_shapes(spec, height, width)
    if isinstance(spec.anchors, AnchorSpec):
        return AnchorGrid(spec.anchors)(shapes, STRIDES, size=(height, width))
    return default_boxes(spec.anchors, shapes, size=(height, width))

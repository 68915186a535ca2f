"""Features of IoU-Net's own, for detectors whose features cannot be had: a small backbone and an FPN, trained with it.

Letters: B images, H x W pixels, F features.
"""

from typing import Annotated, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.prroi_pool import flatten_maps
from calibox_training.iou_net.windows import Maps
from calibox_training.model_spec import Backbone, BackboneSpec
from calibox_training.models.backbones import build_backbone
from calibox_training.models.detector import NORMALISATIONS, normalised

_COARSEST = 5  # C5, the last map of every backbone


class QualityBackboneSpec(BackboneSpec):
    """The backbone beside a foreign detector. Narrow by default: it learns from the boxes' surroundings alone."""

    backbone: Backbone = Field(default="resnet18", description="torchvision's name, not vgg16, which has no C5.")
    backbone_width: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.25, description="Multiple of the channels of resnet18 and resnet34; write 1 for published weights."
    )
    fpn_channels: Annotated[int, Field(ge=8, multiple_of=8)] = Field(default=32, description="F, of every level.")
    finest: Literal[2, 3] = Field(
        default=2,
        description="Finest level; 2, the paper's, has a quarter of the image's pixels along a side. 3 is cheaper.",
    )

    @model_validator(mode="after")
    def _has_four_maps(self) -> Self:
        if self.backbone == "vgg16":
            raise ValueError("backbone vgg16 has no map at stride 32; take resnet18 or another")
        return self


class QualityBackbone(nn.Module):
    """A `FeatureSource` with weights of its own: gradients flow."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: QualityBackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone, channels = build_backbone(spec, finest="c2" if spec.finest == 2 else "c3")
        self.fpn = FeaturePyramidNetwork(channels, spec.fpn_channels)
        mean, std = NORMALISATIONS[spec.normalisation]
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    def levels(self) -> Levels:
        """From the finest to P5."""
        return Levels(self.spec.finest, _COARSEST)

    @property
    def channels(self) -> int:
        """F."""
        return self.spec.fpn_channels

    def train(self, mode: bool = True) -> "QualityBackbone":
        """Keeps the backbone's statistics fixed when the spec says so."""
        super().train(mode)
        if self.spec.frozen_statistics:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps float32 ``[B, F, H / 2^n, W / 2^n]`` (rounded up) of uint8 RGB images ``[B, H, W, 3]``, finest first."""
        found = self.fpn(self.backbone(normalised(images, self.mean, self.std)))
        return tuple(found.values())

    def maps(self, images: Tensor) -> Maps:
        """Features of uint8 RGB images ``[B, H, W, 3]``, float32."""
        return flatten_maps(self(images))

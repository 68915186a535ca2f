"""A trained two-stage detector as evaluation and IoU-Net's analyses see it.

Letters: B images, R (box, class) pairs of all images, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from calibox_core.manifest import ClassInfo, InputSpec
from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.systems import Candidates
from calibox_training.iou_net.windows import Maps
from calibox_training.rcnn.checkpoint import RcnnModel
from calibox_training.rcnn.detector import POOLED_LEVELS, RcnnDetector


@dataclass(frozen=True, slots=True)
class RcnnFeatures:
    """P2 to P5, without a gradient."""

    detector: RcnnDetector

    @property
    def levels(self) -> Levels:
        """P2 to P5."""
        return POOLED_LEVELS

    @property
    def channels(self) -> int:
        """Of the FPN."""
        return self.detector.spec.fpn_channels

    @torch.no_grad()
    def maps(self, images: Tensor) -> Maps:
        """Features of uint8 RGB images ``[B, H, W, 3]``, float32."""
        return self.detector.maps(self.detector.pyramid(images))


@dataclass(frozen=True, slots=True)
class RcnnSystem:
    """A `BoxSystem`; of the joint branch it has the predictor besides."""

    model: RcnnModel

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of labels."""
        return self.model.classes

    @property
    def input(self) -> InputSpec:
        """The recipe's."""
        return self.model.recipe.input

    @property
    def features(self) -> RcnnFeatures:
        """What the joint branch reads, and what a standalone predictor on this detector may."""
        return RcnnFeatures(self.model.detector)

    @property
    def predictor(self) -> IouPredictor | None:
        """Of the joint branch; None without one."""
        return self.model.detector.predictor

    @torch.no_grad()
    def candidates(self, images: Tensor) -> Candidates:
        """Of uint8 RGB images ``[B, H, W, 3]``."""
        detector = self.model.detector
        return detector.candidates(detector.pyramid(images), images)

    @torch.no_grad()
    def regress(self, images: Tensor, found: Candidates) -> Candidates:
        """The same pairs after one more pass of the (last) box head, image by image."""
        detector = self.model.detector
        return detector.regressed(detector.pyramid(images), images, found)

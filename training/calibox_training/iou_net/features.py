"""What IoU-Net reads: some levels of a feature pyramid, and boxes pooled from them.

The paper pools from the FPN of the detector it improves. Any module that gives such levels will do: `FeatureSource`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.prroi_pool import flatten_maps, pool_maps, roi_levels
from calibox_training.iou_net.refinement import BoxScore
from calibox_training.iou_net.windows import Maps
from calibox_training.machine import RunError
from calibox_training.models.detector import Detector


class Levels(NamedTuple):
    """Levels that boxes are pooled from, both ends included; a pixel of level n is 2^n pixels of the image wide."""

    lowest: int
    highest: int

    @property
    def scales(self) -> tuple[float, ...]:
        """Map pixels per image pixel, finest level first."""
        return tuple(2.0**-level for level in range(self.lowest, self.highest + 1))

    def of_boxes(self, boxes_R4: Tensor) -> Tensor:
        """Which of the maps each box is pooled from, int64 ``[R]``, 0 the finest."""
        return roi_levels(boxes_R4, lowest=self.lowest, highest=self.highest)


# The paper's FPN has a P2 besides, which single-stage detectors leave out; small boxes fall to P3.
SINGLE_STAGE = Levels(3, 5)


class FeatureSource(Protocol):
    """Where the features come from."""

    @property
    def levels(self) -> Levels:
        """Of its maps."""
        ...

    @property
    def channels(self) -> int:
        """Features of each pixel."""
        ...

    def maps(self, images: Tensor) -> Maps:
        """Features of uint8 RGB images ``[B, H, W, 3]``, float32."""
        ...


@dataclass(frozen=True, slots=True)
class DetectorFeatures:
    """P3 to P5 of a single-stage detector, without a gradient.

    Raises:
        RunError: the detector has no FPN.
    """

    detector: Detector

    def __post_init__(self) -> None:
        if self.detector.fpn is None:
            raise RunError(
                f"IoU-Net reads the levels of an FPN, and this detector's neck is {self.detector.spec.neck}; "
                "take a checkpoint whose recipe says neck: fpn"
            )

    @property
    def levels(self) -> Levels:
        """P3 to P5."""
        return SINGLE_STAGE

    @property
    def channels(self) -> int:
        """Of the FPN."""
        return self.detector.spec.fpn_channels

    @torch.no_grad()
    def maps(self, images: Tensor) -> Maps:
        """Features of uint8 RGB images ``[B, H, W, 3]``, float32."""
        assert self.detector.fpn is not None  # seen at construction
        found = self.detector.fpn(self.detector.backbone(self.detector.normalise(images)))
        levels: Sequence[Tensor] = list(found.values())
        return flatten_maps(levels[: len(self.levels.scales)])


def outputs_of_boxes(predictor: IouPredictor, maps: Maps, boxes_R4: Tensor, image_R: Tensor, levels: Levels) -> Tensor:
    """Raw outputs ``[R, C]`` of boxes in pixels of their images, each from the level of its size."""
    side = predictor.spec.pooled
    level_R = levels.of_boxes(boxes_R4)
    pooled = pool_maps(maps, boxes_R4, image_R, level_R, (side, side), scales=levels.scales)
    outputs: Tensor = predictor(pooled)
    return outputs


def box_score(
    predictor: IouPredictor, maps: Maps, boxes_R4: Tensor, image_R: Tensor, label_R: Tensor, levels: Levels
) -> BoxScore:
    """What `refine` climbs, with each box's level fixed to that of where it starts."""
    return BoxScore(
        predictor=predictor,
        maps=maps,
        scales=levels.scales,
        image_R=image_R,
        label_R=label_R,
        level_R=levels.of_boxes(boxes_R4),
    )

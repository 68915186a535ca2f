"""What IoU-Net reads of a detector: the finer levels of its FPN, without a gradient, and boxes pooled from them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.prroi_pool import flatten_maps, pool_maps, roi_levels
from calibox_training.iou_net.refinement import BoxScore
from calibox_training.iou_net.windows import Maps
from calibox_training.machine import RunError
from calibox_training.models.detector import Detector
from calibox_training.pyramid import STRIDES

# P3 to P5. The paper's FPN has a P2 besides, which single-stage detectors leave out; small boxes fall to P3.
LOWEST, HIGHEST = 3, 5
POOLED_SCALES = tuple(1 / stride for stride in STRIDES[: HIGHEST - LOWEST + 1])


@torch.no_grad()
def frozen_maps(detector: Detector, images: Tensor) -> Maps:
    """P3 to P5 of uint8 RGB images ``[B, H, W, 3]``, float32.

    Raises:
        RunError: the detector has no FPN.
    """
    if detector.fpn is None:
        raise RunError(
            f"IoU-Net reads the levels of an FPN, and this detector's neck is {detector.spec.neck}; "
            "take a checkpoint whose recipe says neck: fpn"
        )
    levels: Sequence[Tensor] = list(detector.fpn(detector.backbone(detector.normalise(images))).values())
    return flatten_maps(levels[: len(POOLED_SCALES)])


def outputs_of_boxes(predictor: IouPredictor, maps: Maps, boxes_R4: Tensor, image_R: Tensor) -> Tensor:
    """Raw outputs ``[R, C]`` of boxes in pixels of their images, each from the level of its size."""
    side = predictor.spec.pooled
    level_R = roi_levels(boxes_R4, lowest=LOWEST, highest=HIGHEST)
    pooled = pool_maps(maps, boxes_R4, image_R, level_R, (side, side), scales=POOLED_SCALES)
    outputs: Tensor = predictor(pooled)
    return outputs


def box_score(predictor: IouPredictor, maps: Maps, boxes_R4: Tensor, image_R: Tensor, label_R: Tensor) -> BoxScore:
    """What `refine` climbs, with each box's level fixed to that of where it starts."""
    level_R = roi_levels(boxes_R4, lowest=LOWEST, highest=HIGHEST)
    return BoxScore(
        predictor=predictor, maps=maps, scales=POOLED_SCALES, image_R=image_R, label_R=label_R, level_R=level_R
    )

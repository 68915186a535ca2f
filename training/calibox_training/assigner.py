"""Max-IoU assignment of anchors to objects (RetinaNet), vectorised over a padded batch.

Letters: B images, G objects (padded), A anchors.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from calibox_training.box_coder import batched_intersection, batched_iou
from calibox_training.recipe import AssignerSpec

BACKGROUND = -1
IGNORED = -2
# An anchor that lies this much inside a crowd region teaches nothing (COCO's evaluation forgives it as well).
CROWD_OVERLAP = 0.5


class Assignment(NamedTuple):
    """What each anchor answers for."""

    object_BA: Tensor  # int64: index of the object, -1 background, -2 ignored
    iou_BA: Tensor  # float32: best IoU of the anchor with an object, 0 without objects

    @property
    def positive_BA(self) -> Tensor:
        """bool: the anchor answers for an object."""
        return self.object_BA >= 0


@dataclass(frozen=True, slots=True)
class MaxIouAssigner:
    """A pure function of anchors and objects, with the recipe's thresholds."""

    spec: AssignerSpec

    @torch.no_grad()
    def __call__(self, anchors_A4: Tensor, boxes_BG4: Tensor, real_BG: Tensor, crowd_BG: Tensor) -> Assignment:
        """Assigns.

        Args:
            anchors_A4: float32, input pixels.
            boxes_BG4: float32 objects, padded.
            real_BG: bool, False on padding and on crowd regions.
            crowd_BG: bool, True on crowd regions.
        """
        iou_BGA = batched_iou(boxes_BG4, anchors_A4) * real_BG[:, :, None]
        # A row of zeros for "no object" lets images without any run through the same lines.
        none_B1A = iou_BGA.new_full((iou_BGA.shape[0], 1, iou_BGA.shape[2]), 0.0)
        best_BA, row_BA = torch.cat([none_B1A, iou_BGA], dim=1).max(dim=1)
        object_BA = row_BA - 1
        found_BA = torch.full_like(object_BA, IGNORED)
        found_BA[best_BA < self.spec.negative_iou] = BACKGROUND
        found_BA = torch.where(self._in_crowd(anchors_A4, boxes_BG4, crowd_BG), IGNORED, found_BA)
        found_BA = torch.where((best_BA >= self.spec.positive_iou) & (object_BA >= 0), object_BA, found_BA)
        return Assignment(self._claim_best(found_BA, iou_BGA), best_BA)

    def _claim_best(self, found_BA: Tensor, iou_BGA: Tensor) -> Tensor:
        """Every object takes the anchors that no anchor overlaps better; the last object wins a contested one."""
        if iou_BGA.shape[1] == 0:
            return found_BA
        top_BG1 = iou_BGA.amax(dim=2, keepdim=True)
        claims_BGA = (iou_BGA == top_BG1) & (top_BG1 > self.spec.min_positive_iou)
        number_G = torch.arange(iou_BGA.shape[1], device=iou_BGA.device)[None, :, None]
        claimer_BA = torch.where(claims_BGA, number_G, BACKGROUND).amax(dim=1)
        return torch.where(claimer_BA >= 0, claimer_BA, found_BA)

    @staticmethod
    def _in_crowd(anchors_A4: Tensor, boxes_BG4: Tensor, crowd_BG: Tensor) -> Tensor:
        size_A2 = anchors_A4[:, 2:] - anchors_A4[:, :2]
        inside_BGA = batched_intersection(boxes_BG4, anchors_A4) / size_A2.prod(dim=-1)
        return ((inside_BGA > CROWD_OVERLAP) & crowd_BG[:, :, None]).any(dim=1)

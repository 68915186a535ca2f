"""The training objective of IoU-aware RetinaNet (eq. 1 to 4).

Letters: B images, G objects (padded), A anchors, C classes.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from calibox_training.assigner import IGNORED, Assignment, MaxIouAssigner
from calibox_training.box_coder import aligned_iou, decode_boxes, encode_boxes
from calibox_training.losses import focal_loss, iou_bce_loss, iou_l2_loss, smooth_l1_loss
from calibox_training.models.heads import HeadOutput
from calibox_training.recipe import LossSpec, ModelSpec


class Objects(NamedTuple):
    """Ground truth of a batch, padded to the most objects of an image."""

    boxes_BG4: Tensor  # float32, x1, y1, x2, y2 in input pixels; 0 on padding
    labels_BG: Tensor  # int64 class index; -1 on padding and on crowd regions
    crowd_BG: Tensor  # bool


class Losses(NamedTuple):
    """Scalars; ``total`` is their weighted sum."""

    total: Tensor
    classification: Tensor
    box: Tensor
    quality: Tensor


class Criterion:
    """Assigns, compares, reduces. Holds no weights of its own."""

    def __init__(self, model: ModelSpec, loss: LossSpec) -> None:
        self.assign = MaxIouAssigner(model.assigner)
        self.quality = model.quality
        self.loss = loss

    def __call__(self, found: HeadOutput, anchors_A4: Tensor, objects: Objects) -> Losses:
        """Losses of a batch, each summed over anchors and divided by the number of positives of all processes."""
        assignment = self.assign(anchors_A4, objects.boxes_BG4, objects.labels_BG >= 0, objects.crowd_BG)
        matched_BA4, label_BA = _matched(assignment, objects)
        positive_BA = assignment.positive_BA
        count = _count_over_processes(positive_BA)
        classification = self._classification(found.class_BAC, assignment, label_BA) / count
        box = (self._box(found.delta_BA4, matched_BA4, anchors_A4) * positive_BA).sum() / count
        quality = (self._quality(found, matched_BA4, anchors_A4) * positive_BA).sum() / count
        total = classification + self.loss.box_weight * box + self.quality.weight * quality
        return Losses(total, classification, box, quality)

    def _classification(self, class_BAC: Tensor, assignment: Assignment, label_BA: Tensor) -> Tensor:
        # One class more takes the background rows and is cut off again.
        target_BAC = F.one_hot(label_BA.clamp(min=-1) + 1, class_BAC.shape[-1] + 1)[..., 1:]
        loss_BAC = focal_loss(class_BAC, target_BAC, alpha=self.loss.focal_alpha, gamma=self.loss.focal_gamma)
        return (loss_BAC * (assignment.object_BA != IGNORED)[..., None]).sum()

    def _box(self, delta_BA4: Tensor, matched_BA4: Tensor, anchors_A4: Tensor) -> Tensor:
        target_BA4 = encode_boxes(matched_BA4, anchors_A4)
        return smooth_l1_loss(delta_BA4, target_BA4, beta=self.loss.smooth_l1_beta).sum(dim=-1)

    def _quality(self, found: HeadOutput, matched_BA4: Tensor, anchors_A4: Tensor) -> Tensor:
        iou_BA = aligned_iou(decode_boxes(found.delta_BA4, anchors_A4), matched_BA4)
        if self.quality.detach_target:
            iou_BA = iou_BA.detach()
        compare = iou_bce_loss if self.quality.loss == "bce" else iou_l2_loss
        return compare(found.quality_BA1[..., 0], iou_BA)


def _matched(assignment: Assignment, objects: Objects) -> tuple[Tensor, Tensor]:
    """Box and label of each anchor's object; a row of nothing serves the anchors without one."""
    index_BA = assignment.object_BA.clamp(min=-1) + 1
    boxes = F.pad(objects.boxes_BG4, (0, 0, 1, 0))
    labels = F.pad(objects.labels_BG, (1, 0), value=-1)
    return boxes.gather(1, index_BA[..., None].expand(-1, -1, 4)), labels.gather(1, index_BA)


def _count_over_processes(positive_BA: Tensor) -> Tensor:
    """Mean number of positives per process, at least 1: gradients are averaged over processes afterwards."""
    count = positive_BA.sum().float()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(count)
        count = count / dist.get_world_size()
    return torch.clamp(count, min=1.0)

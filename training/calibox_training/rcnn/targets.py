"""What teaches the two stages: objects of an image as torchvision's parts take them, and which boxes are whose.

Letters: G objects of an image, R boxes of an image; labels count from 1, 0 is the background.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from calibox_training.assigner import CROWD_OVERLAP
from calibox_training.box_coder import area, batched_intersection, batched_iou
from calibox_training.objects import Objects
from calibox_training.rcnn.spec import RcnnSpec

Target = dict[str, Tensor]  # boxes [G, 4], labels [G], crowd [*, 4]; masks [G, H, W] where the detector learns them


def targets_of(objects: Objects, masks_BGHW: Tensor | None = None) -> list[Target]:
    """One target per image, without padding; crowd regions are apart from the objects."""
    real_BG = (objects.labels_BG >= 0) & ~objects.crowd_BG & (area(objects.boxes_BG4) > 0)
    found = [
        {"boxes": boxes_G4[real_G], "labels": labels_G[real_G] + 1, "crowd": boxes_G4[crowd_G]}
        for boxes_G4, labels_G, crowd_G, real_G in zip(*objects, real_BG, strict=True)
    ]
    if masks_BGHW is not None:
        for target, masks_GHW, real_G in zip(found, masks_BGHW, real_BG, strict=True):
            target["masks"] = masks_GHW[real_G]
    return found


def in_crowd(boxes_R4: Tensor, crowd_G4: Tensor) -> Tensor:
    """Bool ``[R]``: boxes that lie so far in a crowd region that they teach nothing."""
    common_GR = batched_intersection(crowd_G4[None], boxes_R4)[0]
    return (common_GR > CROWD_OVERLAP * area(boxes_R4)).any(dim=0)


def relabelled(boxes_R4: Tensor, target: Target, iou: float) -> tuple[Tensor, Tensor]:
    """Which object each box answers for: the one it overlaps most, if by ``iou`` at least.

    Returns: labels int64 ``[R]``, 0 for the background, and the objects' boxes ``[R, 4]``, of which those of background
        mean nothing.
    """
    # A row of background lets images without objects through the same lines.
    objects_G4 = torch.cat([target["boxes"].new_zeros(1, 4), target["boxes"]])
    labels_G = torch.cat([target["labels"].new_zeros(1), target["labels"]])
    best_R, object_R = batched_iou(objects_G4[None], boxes_R4)[0].max(dim=0)
    return torch.where(best_R >= iou, labels_G[object_R], 0), objects_G4[object_R]


class ProposalNetwork(RegionProposalNetwork):  # type: ignore[misc]  # torchvision has no types
    """torchvision's, on P2 to P6, to which crowd regions are neither object nor background."""

    def __init__(self, spec: RcnnSpec) -> None:
        asked = spec.proposals
        sizes = tuple((size,) for size in spec.anchor_sizes)
        super().__init__(
            AnchorGenerator(sizes, (spec.anchor_ratios,) * len(sizes)),
            RPNHead(spec.fpn_channels, len(spec.anchor_ratios)),
            # FPN, arXiv 1612.03144, section 4.1, and half of the sampled anchors positive (Faster R-CNN).
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=asked.anchors_per_image,
            positive_fraction=0.5,
            pre_nms_top_n={"training": asked.before_nms_training, "testing": asked.before_nms},
            post_nms_top_n={"training": asked.after_nms_training, "testing": asked.after_nms},
            nms_thresh=asked.iou,
        )

    def assign_targets_to_anchors(
        self, anchors: Sequence[Tensor], targets: Sequence[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Torchvision's hook: labels 1, 0 or -1 (ignored) of each image's anchors, and their objects' boxes."""
        found: Any = super().assign_targets_to_anchors(anchors, targets)
        labels, boxes = found
        for label_A, anchor_A4, target in zip(labels, anchors, targets, strict=True):
            label_A[(label_A == 0) & in_crowd(anchor_A4, target["crowd"])] = -1
        return labels, boxes

"""The second stage of Faster and Mask R-CNN: proposals become classes, boxes and masks.

Letters: R RoIs of all images, image by image; C classes; L labels, of which 0 is the background; F pooled features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from calibox_training.box_coder import decode_boxes
from calibox_training.iou_net.systems import CANDIDATE_FLOOR
from calibox_training.models.backbones import MAP_NAMES
from calibox_training.rcnn.spec import RcnnSpec
from calibox_training.rcnn.targets import Target, in_crowd, relabelled

Pyramid = dict[str, Tensor]  # P2 to P5 by their backbone map's name, and P6 as `pool`
Size = tuple[int, int]  # height and width of the input in pixels

BINS = 7  # of a pooled RoI along either side, for classes and boxes
MASK_BINS, MASK_LAYERS = 14, 4  # the same for masks, and the convolutions of their head (Mask R-CNN, fig. 4)
# Unit of the codes' centres and log sizes, as R-CNN has them.
DEVIATIONS = (0.1, 0.1, 0.2, 0.2)


class Scored(NamedTuple):
    """What the second stage makes of proposals."""

    boxes_RC4: Tensor  # of each class, inside the image
    p_RC: Tensor  # 0..1


class BoxHeads(RoIHeads):  # type: ignore[misc]  # torchvision has no types
    """torchvision's RoI heads, trained as there; the proposals' boxes are given out before any NMS."""

    def __init__(self, spec: RcnnSpec, *, classes: int, **parts: nn.Module) -> None:
        head, predictor = self.layers(spec, labels=classes + 1)
        super().__init__(
            MultiScaleRoIAlign(featmap_names=list(MAP_NAMES), output_size=BINS, sampling_ratio=2),
            head,
            predictor,
            fg_iou_thresh=self.first_iou(spec),
            bg_iou_thresh=self.first_iou(spec),
            batch_size_per_image=spec.rois.per_image,
            positive_fraction=spec.rois.positive_share,
            bbox_reg_weights=tuple(1 / unit for unit in DEVIATIONS),
            # Read by torchvision's own detections alone, which nothing here asks for.
            score_thresh=CANDIDATE_FLOOR,
            nms_thresh=0.5,
            detections_per_img=100,
            **parts,
        )

    def layers(self, spec: RcnnSpec, *, labels: int) -> tuple[nn.Module, nn.Module]:
        """The fully connected layers, and those that give logits and codes."""
        return box_head(spec), FastRCNNPredictor(spec.box_head_width, labels)

    def first_iou(self, spec: RcnnSpec) -> float:
        """IoU from which on a proposal is an object."""
        return spec.rois.positive_iou

    def select_training_samples(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> Any:
        """Torchvision's hook; of the background, what lies in crowd regions is left out."""
        kept = []
        for boxes_R4, target in zip(proposals, targets, strict=True):
            label_R, _ = relabelled(boxes_R4, target, self.proposal_matcher.low_threshold)
            kept.append(boxes_R4[(label_R > 0) | ~in_crowd(boxes_R4, target["crowd"])])
        return super().select_training_samples(kept, targets)

    def losses(
        self, pyramid: Pyramid, proposals: Sequence[Tensor], targets: Sequence[Target], size: Size
    ) -> dict[str, Tensor]:
        """Of classes, boxes and, where there are any, masks."""
        found: dict[str, Tensor] = self(pyramid, list(proposals), [size] * len(proposals), list(targets))[1]
        return found

    def scored(self, pyramid: Pyramid, proposals: Sequence[Tensor], size: Size) -> Scored:
        """Boxes and class scores of proposals."""
        logits_RL, codes = self.box_predictor(self._pooled(pyramid, proposals, size))
        codes_RL4 = codes.unflatten(1, (-1, 4))
        boxes_RL4 = decoded(codes_RL4, torch.cat(list(proposals))[:, None], DEVIATIONS, size)
        return Scored(boxes_RL4[:, 1:], logits_RL.softmax(dim=1)[:, 1:])

    def regressed(self, pyramid: Pyramid, boxes: Sequence[Tensor], label_R: Tensor, size: Size) -> Tensor:
        """Boxes ``[R, 4]`` after one more pass; labels count from 0, without the background."""
        boxes_RC4 = self.scored(pyramid, boxes, size).boxes_RC4
        return boxes_RC4[torch.arange(len(label_R), device=label_R.device), label_R]

    def _pooled(self, pyramid: Pyramid, boxes: Sequence[Tensor], size: Size) -> Tensor:
        pooled_RF: Tensor = self.box_head(self.box_roi_pool(pyramid, list(boxes), [size] * len(boxes)))
        return pooled_RF


def box_head(spec: RcnnSpec) -> nn.Module:
    """Two fully connected layers."""
    head: nn.Module = TwoMLPHead(spec.fpn_channels * BINS**2, spec.box_head_width)
    return head


def decoded(codes: Tensor, boxes: Tensor, deviations: Sequence[float], size: Size) -> Tensor:
    """Boxes ``[..., 4]`` of codes in units of their deviations, inside the image."""
    moved = decode_boxes(codes * codes.new_tensor(deviations), boxes)
    inside: Tensor = clip_boxes_to_image(moved, size)
    return inside


class MaskHeads(BoxHeads):
    """Mask R-CNN: a third branch on the box heads' positive proposals, torchvision's."""

    def __init__(self, spec: RcnnSpec, *, classes: int) -> None:
        channels = spec.mask_channels
        super().__init__(
            spec,
            classes=classes,
            mask_roi_pool=MultiScaleRoIAlign(featmap_names=list(MAP_NAMES), output_size=MASK_BINS, sampling_ratio=2),
            mask_head=MaskRCNNHeads(spec.fpn_channels, (channels,) * MASK_LAYERS, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
        )

    def masks(self, pyramid: Pyramid, boxes: Sequence[Tensor], label_R: Tensor, size: Size) -> Tensor:
        """Probability 0..1 of belonging to the object, ``[R, H, W]`` in the input's pixels, 0 outside the box.

        Args:
            pyramid: of the images.
            boxes: of each image, ``[*, 4]``.
            label_R: of all boxes, from 0, without the background.
            size: H and W.
        """
        pooled = self.mask_head(self.mask_roi_pool(pyramid, list(boxes), [size] * len(boxes)))
        logits_RLMM = self.mask_predictor(pooled)
        rows_R = torch.arange(len(label_R), device=label_R.device)
        inside_R1MM = logits_RLMM[rows_R, label_R + 1].sigmoid()[:, None]
        pasted: Tensor = paste_masks_in_image(inside_R1MM, torch.cat(list(boxes)), size)
        return pasted[:, 0]

"""Cascade R-CNN's second stage: three box heads in a row, each taught by, and scoring, the boxes of the one before.

Source: Cai and Vasconcelos, Cascade R-CNN, arXiv 1712.00726. One box for all classes; the class score is the mean of
the three heads', each over the boxes that it was given.

Letters: R RoIs of all images, image by image; C classes; L labels, of which 0 is the background.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import fastrcnn_loss

from calibox_training.box_coder import encode_boxes
from calibox_training.rcnn.heads import DEVIATIONS, BoxHeads, Pyramid, Scored, Size, box_head, decoded
from calibox_training.rcnn.spec import RcnnSpec
from calibox_training.rcnn.targets import Target, relabelled

# Units of each stage's codes: what is left to correct becomes less.
STAGE_DEVIATIONS = tuple(tuple(unit / part for unit in DEVIATIONS) for part in (1, 2, 3))
STAGES = len(STAGE_DEVIATIONS)


class CascadeHeads(BoxHeads):
    """Three stages; a proposal's boxes are resampled by regression, and no proposal is dropped between stages."""

    def __init__(self, spec: RcnnSpec, *, classes: int) -> None:
        super().__init__(spec, classes=classes)
        self.spec = spec.cascade

    def layers(self, spec: RcnnSpec, *, labels: int) -> tuple[nn.Module, nn.Module]:
        """Those of all stages."""
        predictors = [FastRCNNPredictor(spec.box_head_width, labels) for _ in range(STAGES)]
        for predictor in predictors:
            predictor.bbox_pred = nn.Linear(spec.box_head_width, 4)
        return nn.ModuleList(box_head(spec) for _ in range(STAGES)), nn.ModuleList(predictors)

    def first_iou(self, spec: RcnnSpec) -> float:
        """Of the first stage."""
        return spec.cascade.positive_iou[0]

    def losses(
        self, pyramid: Pyramid, proposals: Sequence[Tensor], targets: Sequence[Target], size: Size
    ) -> dict[str, Tensor]:
        """Of classes and boxes of each stage, weighted."""
        boxes, *_ = self.select_training_samples(proposals, targets)
        losses: dict[str, Tensor] = {}
        for stage, weight in enumerate(self.spec.weights):
            logits_RL, code_R4 = self._stage(stage, pyramid, boxes, size)
            labels, codes = self._targets(stage, boxes, targets)
            # torchvision's loss reads the code of a box's label.
            code_RL4 = code_R4[:, None].expand(-1, logits_RL.shape[1], -1)
            class_loss, box_loss = fastrcnn_loss(logits_RL, code_RL4.flatten(1), labels, codes)
            losses |= {f"loss_classifier_{stage}": weight * class_loss, f"loss_box_reg_{stage}": weight * box_loss}
            boxes = self._next(stage, code_R4.detach(), boxes, size)
        return losses

    def scored(self, pyramid: Pyramid, proposals: Sequence[Tensor], size: Size) -> Scored:
        """The last stage's box, for every class, and the mean of the stages' scores."""
        boxes, scores = list(proposals), []
        for stage in range(STAGES):
            logits_RL, code_R4 = self._stage(stage, pyramid, boxes, size)
            scores.append(logits_RL.softmax(dim=1))
            boxes = self._next(stage, code_R4, boxes, size)
        p_RC = torch.stack(scores).mean(dim=0)[:, 1:]
        return Scored(torch.cat(boxes)[:, None].expand(-1, p_RC.shape[1], -1), p_RC)

    def regressed(self, pyramid: Pyramid, boxes: Sequence[Tensor], label_R: Tensor, size: Size) -> Tensor:
        """Boxes ``[R, 4]`` after one more pass of the last stage, which is the same for all classes."""
        del label_R
        _, code_R4 = self._stage(STAGES - 1, pyramid, boxes, size)
        return torch.cat(self._next(STAGES - 1, code_R4, boxes, size))

    def _stage(self, stage: int, pyramid: Pyramid, boxes: Sequence[Tensor], size: Size) -> tuple[Tensor, Tensor]:
        """Logits ``[R, L]`` and codes ``[R, 4]``."""
        pooled = self.box_head[stage](self.box_roi_pool(pyramid, list(boxes), [size] * len(boxes)))
        logits_RL, code_R4 = self.box_predictor[stage](pooled)
        return logits_RL, code_R4

    def _targets(
        self, stage: int, boxes: Sequence[Tensor], targets: Sequence[Target]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Labels and codes of each image's boxes under the stage's IoU."""
        labels, codes = [], []
        for boxes_R4, target in zip(boxes, targets, strict=True):
            label_R, object_R4 = relabelled(boxes_R4, target, self.spec.positive_iou[stage])
            labels.append(label_R)
            codes.append(encode_boxes(object_R4, boxes_R4) / boxes_R4.new_tensor(STAGE_DEVIATIONS[stage]))
        return labels, codes

    def _next(self, stage: int, code_R4: Tensor, boxes: Sequence[Tensor], size: Size) -> list[Tensor]:
        """The boxes of each image after a stage."""
        moved_R4 = decoded(code_R4, torch.cat(list(boxes)), STAGE_DEVIATIONS[stage], size)
        return list(torch.split(moved_R4, [len(one) for one in boxes]))

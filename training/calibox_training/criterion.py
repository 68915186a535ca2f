"""The training objective of the dense detectors: assign, compare, weigh, reduce.

Letters: B images, G objects (padded), A anchors, C classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from calibox_training.anchors import AnchorSet
from calibox_training.assigner import BACKGROUND, IGNORED, Assignment, build_assigner
from calibox_training.box_coder import BoxCoder, aligned_iou, centerness
from calibox_training.loss_spec import LossSpec
from calibox_training.losses import (
    ScoreLogs,
    distribution_focal_loss,
    focal_loss,
    giou_loss,
    iou_aware_bce_loss,
    matchability_aware_loss,
    mined_cross_entropy,
    quality_focal_loss,
    score_logs,
    smooth_l1_loss,
    varifocal_loss,
)
from calibox_training.model_spec import ModelSpec
from calibox_training.models.heads import HeadOutput
from calibox_training.objects import Objects
from calibox_training.processes import over_processes
from calibox_training.quality import Matches, quality_term
from calibox_training.quality_spec import NoQuality


class Losses(NamedTuple):
    """Scalars, weighted as the recipe says; ``total`` is their sum."""

    total: Tensor
    classification: Tensor
    box: Tensor  # with the loss of the distributions where boxes are coded so
    quality: Tensor


class Criterion:
    """Assigns, compares, reduces. Holds no weights of its own."""

    def __init__(self, model: ModelSpec, loss: LossSpec) -> None:
        self.assign = build_assigner(model.assigner)
        self.coder = BoxCoder(model.box)
        self.quality = model.quality
        self.quality_weight = 0.0 if isinstance(model.quality, NoQuality) else model.quality.weight
        self.loss = loss

    def __call__(self, found: HeadOutput, anchors: AnchorSet, objects: Objects) -> Losses:
        """Losses of a batch, each summed over anchors and divided by the number of positives of all processes.

        The box loss is divided by the sum of its weights, which is that number when they are uniform.
        """
        assignment = self.assign(anchors, objects.boxes_BG4, objects.labels_BG >= 0, objects.crowd_BG)
        object_BA4, label_BA = _matched(assignment, objects)
        decoded_BA4 = self.coder.decode(found.box_BAV, anchors.boxes_A4, anchors.stride_A)
        iou_BA = aligned_iou(decoded_BA4, object_BA4)
        matches = Matches(assignment, anchors.boxes_A4, object_BA4, label_BA, iou_BA)
        count = over_processes(assignment.positive_BA.sum().float()).clamp(min=1.0)
        classification = self._classification(found, matches).sum() / count
        box = self._box(found, decoded_BA4, anchors, matches)
        quality = self.quality_weight * quality_term(self.quality, found, matches, objects, decoded_BA4, count)
        return Losses(classification + box + quality, classification, box, quality)

    def _classification(self, found: HeadOutput, matches: Matches) -> Tensor:
        logits_BAC, known_BA = found.class_BAC, matches.assignment.object_BA != IGNORED
        if self.loss.classification == "softmax":
            label_BA = matches.label_BA.clamp(min=-1) + 1
            background_BA = matches.assignment.object_BA == BACKGROUND
            return mined_cross_entropy(logits_BAC, label_BA, background_BA, negative_ratio=self.loss.negative_ratio)
        # One class more takes the background rows and is cut off again.
        hard_BAC = F.one_hot(matches.label_BA.clamp(min=-1) + 1, logits_BAC.shape[-1] + 1)[..., 1:]
        if self.loss.classification == "focal":
            loss_BAC = focal_loss(logits_BAC, hard_BAC, alpha=self.loss.focal_alpha, gamma=self.loss.focal_gamma)
        else:
            loss_BAC = self._soft(self._score(logits_BAC, found), hard_BAC, matches.iou_BA.detach())
        return loss_BAC * known_BA[..., None]

    def _soft(self, score: ScoreLogs, hard_BAC: Tensor, iou_BA: Tensor) -> Tensor:
        """Against the IoU of the decoded box at the object's class, 0 elsewhere."""
        soft_BAC = hard_BAC * iou_BA[..., None]
        match self.loss.classification:
            case "vfl":
                return varifocal_loss(score, soft_BAC)
            case "mal":
                return matchability_aware_loss(score, soft_BAC, hard_BAC > 0)
            case "ia_bce":
                return iou_aware_bce_loss(score, soft_BAC, hard_BAC > 0)
            case _:
                return quality_focal_loss(score, soft_BAC, beta=self.loss.qfl_beta)

    def _score(self, class_logits: Tensor, found: HeadOutput) -> ScoreLogs:
        """The trained score of class logits ``[B, A, classes]``."""
        quality = class_logits if found.quality_BAQ is None else found.quality_BAQ
        return score_logs(class_logits, quality, alpha=self.loss.joint_alpha)

    def _box(self, found: HeadOutput, decoded_BA4: Tensor, anchors: AnchorSet, matches: Matches) -> Tensor:
        weight_BA = self._box_weights(found, matches) * matches.assignment.positive_BA
        # Scores near 0 divide as they are: a clamp at 1 would hold back the first steps. 0 / 1e-6 without positives.
        total = over_processes(weight_BA.sum()).clamp(min=1.0 if self.loss.box_weighting == "uniform" else 1e-6)
        target_BA4 = self.coder.encode(matches.object_BA4, anchors.boxes_A4, anchors.stride_A)
        if self.loss.box == "giou":
            loss_BA = giou_loss(decoded_BA4, matches.object_BA4)
        else:
            loss_BA = smooth_l1_loss(found.box_BAV, target_BA4, beta=self.loss.smooth_l1_beta).sum(dim=-1)
        loss_BA = self.loss.box_weight * loss_BA
        if self.coder.spec.coding == "dfl":
            sides_BA4 = distribution_focal_loss(self.coder.distribution(found.box_BAV), target_BA4)
            loss_BA = loss_BA + self.loss.dfl_weight * sides_BA4.mean(dim=-1)
        return (loss_BA * weight_BA).sum() / total

    @torch.no_grad()
    def _box_weights(self, found: HeadOutput, matches: Matches) -> Tensor:
        match self.loss.box_weighting:
            case "uniform":
                return torch.ones_like(matches.iou_BA)
            case "score":
                best_BA1 = found.class_BAC.amax(dim=-1, keepdim=True)  # the score rises with the class logit
                return self._score(best_BA1, found).yes[..., 0].exp()
            case "centerness":
                return centerness(matches.object_BA4, matches.anchors_A4)


def _matched(assignment: Assignment, objects: Objects) -> tuple[Tensor, Tensor]:
    """Box and label of each anchor's object; a row of nothing serves the anchors without one."""
    index_BA = assignment.object_BA.clamp(min=-1) + 1
    boxes = F.pad(objects.boxes_BG4, (0, 0, 1, 0))
    labels = F.pad(objects.labels_BG, (1, 0), value=-1)
    return boxes.gather(1, index_BA[..., None].expand(-1, -1, 4)), labels.gather(1, index_BA)

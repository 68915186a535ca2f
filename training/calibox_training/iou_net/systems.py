"""Detectors as IoU-Net sees them: boxes with class scores before any NMS, and features to pool boxes from.

Letters: B images, A anchors, C classes, R (box, class) pairs of all images.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import ClassInfo, InputSpec
from calibox_training.checkpoint import TrainedModel
from calibox_training.inference import CandidateGraph
from calibox_training.iou_net.features import DetectorFeatures, FeatureSource

# Class scores filter before predicted IoU ranks: the predictor learns nothing of background, which would win.
CANDIDATE_FLOOR = 0.05


class Candidates(NamedTuple):
    """Of a batch, before any NMS: every (box, class) pair with p above `CANDIDATE_FLOOR`, image by image."""

    boxes_R4: Tensor  # float32 x1, y1, x2, y2 in pixels of the letterboxed input, inside it
    label_R: Tensor  # int64, 0-based
    p_R: Tensor  # float32 0..1, classification score
    image_R: Tensor  # int64, position in the batch


class BoxSystem(Protocol):
    """A detector whose boxes are ranked, suppressed and refined. Its methods compute no gradient."""

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of labels."""
        ...

    @property
    def input(self) -> InputSpec:
        """Of the letterboxed images."""
        ...

    @property
    def features(self) -> FeatureSource:
        """What a standalone predictor on this detector reads."""
        ...

    def candidates(self, images: Tensor) -> Candidates:
        """Of uint8 RGB images ``[B, H, W, 3]``."""
        ...

    def regress(self, images: Tensor, found: Candidates) -> Candidates | None:
        """The same pairs after one more pass of the last box regressor; None where boxes come from anchors alone."""
        ...


@dataclass(frozen=True, slots=True)
class SingleStageSystem:
    """A detector that `calibox train` wrote; each level passes on as many anchors as its recipe says.

    Raises:
        RunError: the detector has no FPN.
    """

    model: TrainedModel
    features: DetectorFeatures = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", DetectorFeatures(self.model.detector))

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """In the order of labels."""
        return self.model.classes

    @property
    def input(self) -> InputSpec:
        """The recipe's."""
        return self.model.recipe.input

    @torch.no_grad()
    def candidates(self, images: Tensor) -> Candidates:
        """Of uint8 RGB images ``[B, H, W, 3]``; a level's anchors are chosen by p."""
        size, recipe = self.input, self.model.recipe
        graph = CandidateGraph(
            self.model.detector, height=size.height, width=size.width, per_level_top_k=recipe.per_level_top_k
        ).to(images.device)
        by_p = torch.tensor([Fusion(name=FusionName.CLASSIFICATION).exponents()], device=images.device)
        boxes_BA4, p_BAC, _ = graph(images, by_p.expand(len(images), -1))
        return candidates_above_floor(boxes_BA4[:, :, None].expand(-1, -1, p_BAC.shape[2], -1), p_BAC)

    def regress(self, images: Tensor, found: Candidates) -> Candidates | None:
        """None: a single stage regresses its anchors and nothing else."""
        del images, found
        return None


def candidates_above_floor(boxes_BAC4: Tensor, p_BAC: Tensor) -> Candidates:
    """The pairs whose p is above `CANDIDATE_FLOOR`, in the order of images, boxes, classes."""
    image_R, box_R, label_R = (p_BAC > CANDIDATE_FLOOR).nonzero(as_tuple=True)
    return Candidates(
        boxes_R4=boxes_BAC4[image_R, box_R, label_R].float(),
        label_R=label_R,
        p_R=p_BAC[image_R, box_R, label_R].float(),
        image_R=image_R,
    )

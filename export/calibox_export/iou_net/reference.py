"""What a bundle with a quality network is held against: the same in PyTorch, by the functions of the training package.

Letters: B images, A anchors, N detections, C classes, R boxes of all images.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibox_export.iou_net.part import IouNetPart
from calibox_training.inference import CandidateGraph
from calibox_training.iou_net.features import FeatureSource, box_score, outputs_of_boxes
from calibox_training.iou_net.predictor import IouPredictor, predicted_iou
from calibox_training.iou_net.refinement import refine
from calibox_training.iou_net.spec import RefinementSpec

Floats = NDArray[np.float32]
# Relative: a box whose class score is this close to that of the last one that passes may pass in another framework.
_NEAR = 1e-3


@dataclass(frozen=True, slots=True)
class IouNetReference:
    """A detector with all anchors of every level, and its quality network."""

    part: IouNetPart
    uncut: CandidateGraph

    def network(self, images: NDArray[np.uint8], fusion: Floats) -> tuple[Floats, ...]:
        """Boxes ``[B, A, 4]``, p ``[B, A, C]`` and q ``[B, A, C]``; q is 0 for boxes that the cut leaves out."""
        part, pixels = self.part, torch.from_numpy(images)
        with torch.inference_mode():
            boxes_BA4, p_BAC, _ = self.uncut(pixels, torch.from_numpy(fusion))
            score_BA = p_BAC.amax(dim=2)
            last_B1 = score_BA.topk(min(part.boxes, score_BA.shape[1]), dim=1).values[:, -1:]
            image_R, anchor_R = (score_BA >= last_B1 * (1 - _NEAR)).nonzero(as_tuple=True)
            maps = part.features.maps(pixels)
            outputs = outputs_of_boxes(
                part.predictor, maps, boxes_BA4[image_R, anchor_R], image_R, part.features.levels
            )
            q_BAC = torch.zeros_like(p_BAC)
            q_BAC[image_R, anchor_R] = predicted_iou(outputs)
        return boxes_BA4.numpy(), p_BAC.numpy(), q_BAC.numpy()

    def refined(
        self, images: NDArray[np.uint8], boxes: Floats, labels: NDArray[np.int32], steps: NDArray[np.int32]
    ) -> tuple[Floats, Floats]:
        """`refined_boxes` of its quality network."""
        part = self.part
        return refined_boxes(part.features, part.predictor, part.refinement, images, boxes, labels, steps)


def refined_boxes(
    features: FeatureSource,
    predictor: IouPredictor,
    refinement: RefinementSpec,
    images: NDArray[np.uint8],
    boxes: Floats,
    labels: NDArray[np.int32],
    steps: NDArray[np.int32],
) -> tuple[Floats, Floats]:
    """Refined boxes ``[B, N, 4]`` and their predicted IoU ``[B, N]``, which is 0 where nothing is refined.

    Args:
        features: what the predictor reads.
        predictor: in eval mode.
        refinement: how, and the most steps.
        images: uint8 ``[B, H, W, 3]``.
        boxes: ``[B, N, 4]``.
        labels: ``[B, N]``, -1 where there is no box.
        steps: ``[B]`` asked for.
    """
    moved, iou = torch.from_numpy(boxes).clone(), torch.zeros(labels.shape)
    with torch.no_grad():
        maps = features.maps(torch.from_numpy(images))
    bounded = np.minimum(steps, refinement.steps)
    for count in set(bounded[bounded > 0].tolist()):
        rows = torch.from_numpy((labels >= 0) & (bounded == count)[:, None])
        image_R, _ = rows.nonzero(as_tuple=True)
        label_R = torch.from_numpy(labels).long()[rows]
        score = box_score(predictor, maps, moved[rows], image_R, label_R, features.levels)
        spec = refinement.model_copy(update={"steps": count})
        found = refine(score, moved[rows], _sizes(images, len(image_R)), spec)
        moved[rows], iou[rows] = found.boxes_R4, predicted_iou(found.output_R)
    return moved.numpy(), iou.numpy()


def _sizes(images: NDArray[np.uint8], count: int) -> Tensor:
    return torch.tensor([images.shape[1:3]]).expand(count, 2)

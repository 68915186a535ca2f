"""The paper's pipelines on stored outputs: which boxes, with which scores, in pixels of their images.

Letters: N detections of an image, K candidates, S steps and the start.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou, xyxy_to_xywh
from calibox_training.iou_net.analysis import FoundBoxes, TrueBoxes
from calibox_training.reproduce.rankings import ImageFound
from calibox_training.reproduce.results import BASE
from calibox_training.reproduce_iou_net.nms_methods import Left, gaussian_soft_nms
from calibox_training.reproduce_iou_net.raw import RawImage

Boxes = NDArray[np.float32]
# By name: boxes [N, 4] in letterboxed pixels and what is left with its scores. The first is the base of all gains.
PIPELINES: Mapping[str, Callable[[RawImage], tuple[Boxes, Left]]] = {
    BASE: lambda image: (image.standard.refined_NS4[:, 0], image.standard.left),
    "soft": lambda image: _of_candidates(image, gaussian_soft_nms(image.scored)),
    "guided": lambda image: (image.guided.refined_NS4[:, 0], image.guided.left),
    "refined": lambda image: (image.standard.refined_NS4[:, -1], image.standard.left),
    "guided_refined": lambda image: (image.guided.refined_NS4[:, -1], image.guided.left),
}


def _of_candidates(image: RawImage, left: Left) -> tuple[Boxes, Left]:
    return image.scored.boxes_K4[left.index_N], left


def detections(images: list[RawImage], pipeline: str) -> Iterator[ImageFound]:
    """Detections of every image; their samples are the candidates: p, predicted IoU, p again, true IoU."""
    for image in images:
        boxes, left = PIPELINES[pipeline](image)
        found, scored = image.letterbox.to_image(boxes), image.scored
        labels = scored.label_K[left.index_N]
        yield ImageFound(
            boxes_N4=xyxy_to_xywh(found).astype(np.float64),
            labels_N=labels,
            scores_N=left.score_N.astype(np.float64),
            iou_N=best_iou(found, labels, truth_of(image)),
            samples=np.stack([scored.p_K, scored.q_K, scored.p_K, candidate_iou(image)], axis=1),
        )


def truth_of(image: RawImage) -> TrueBoxes:
    """Objects of the image, without crowd regions."""
    objects = image.record.labels >= 0
    return TrueBoxes(image.record.boxes[objects], image.record.labels[objects])


def ranked_by(image: RawImage, rank_K: NDArray[np.float32]) -> FoundBoxes:
    """All candidates in pixels of the image."""
    return FoundBoxes(image.letterbox.to_image(image.scored.boxes_K4), image.scored.label_K, rank_K)


def candidate_iou(image: RawImage) -> NDArray[np.float32]:
    """True IoU ``[K]`` of each candidate with its best object of its class, 0 without one."""
    return best_iou(image.letterbox.to_image(image.scored.boxes_K4), image.scored.label_K, truth_of(image))


def best_iou(boxes_N4: Boxes, labels_N: NDArray[np.int64], truth: TrueBoxes) -> NDArray[np.float32]:
    """IoU ``[N]`` with the best object of each box's class, 0 without one."""
    same = labels_N[:, None] == truth.labels_G[None, :]
    best: NDArray[np.float32] = np.where(same, pairwise_iou(boxes_N4, truth.boxes_G4), 0).max(axis=1, initial=0)
    return best.astype(np.float32)

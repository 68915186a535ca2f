"""Soft-NMS, which IoU-Net compares itself with: overlapping boxes lose score instead of being removed.

Source: Bodla et al., Soft-NMS, arXiv 1704.04503, eq. 2 and 3, and fig. 2.

Letters: N boxes.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou


class SoftNms(NamedTuple):
    """How scores decay."""

    decay: Literal["linear", "gaussian"] = "gaussian"
    iou_threshold: float = 0.3  # linear: overlaps above this count (the paper: 0.3)
    sigma: float = 0.5  # gaussian (the paper: 0.5)
    score_floor: float = 0.001  # a box whose score falls to this or below is removed (the authors' code)


def soft_nms(
    boxes_N4: NDArray[Any], labels_N: NDArray[Any], scores_N: NDArray[Any], how: SoftNms
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Greedy rescoring within each class.

    Returns: positions of the boxes that are left, in the order in which they were picked over all classes (by falling
        score, ties by position), and their new scores.
    """
    scores_N = np.array(scores_N, np.float64)
    iou_NN = pairwise_iou(np.asarray(boxes_N4, np.float64), np.asarray(boxes_N4, np.float64))
    iou_NN *= labels_N[:, None] == labels_N[None, :]
    waiting_N = scores_N > how.score_floor
    picked = []
    while waiting_N.any():
        best = int(np.where(waiting_N, scores_N, -np.inf).argmax())
        picked.append(best)
        waiting_N[best] = False
        scores_N[waiting_N] *= _decay(iou_NN[best, waiting_N], how)
        waiting_N &= scores_N > how.score_floor
    order = np.array(picked, np.int64)
    return order, scores_N[order]


def _decay(iou_N: NDArray[np.floating[Any]], how: SoftNms) -> NDArray[np.floating[Any]]:
    if how.decay == "linear":
        return np.where(iou_N > how.iou_threshold, 1 - iou_N, 1.0)
    factor: NDArray[np.floating[Any]] = np.exp(-(iou_N**2) / how.sigma)
    return factor

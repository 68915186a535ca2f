"""The three suppressions that IoU-Net compares, on the same candidates. Source: arXiv 1807.11590, Table 1.

Letters: K candidates of an image, N of them that are left.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.fusion import Fusion, FusionName
from calibox_core.nms import TENSORRT_TOP_K_LIMIT, NmsAttributes, OutScore, calibrated_nms
from calibox_training.evaluation import NO_THRESHOLD
from calibox_training.iou_net.soft_nms import SoftNms, soft_nms

NMS_IOU = 0.5  # the paper gives none; Detectron's, whose baselines it shows
DETECTIONS = 100  # that COCO counts, and that the paper refines


class Scored(NamedTuple):
    """Candidates of an image with both scores."""

    boxes_K4: NDArray[np.float32]  # x1, y1, x2, y2
    label_K: NDArray[np.int64]
    p_K: NDArray[np.float32]
    q_K: NDArray[np.float32]  # predicted IoU


class Left(NamedTuple):
    """What a suppression leaves, at most `DETECTIONS`, best score first."""

    index_N: NDArray[np.int64]  # positions of the candidates
    score_N: NDArray[np.float32]


def standard_nms(found: Scored) -> Left:
    """Greedy by p within classes; p is the score."""
    return _calibrated(found, FusionName.CLASSIFICATION, OutScore.CLASSIFICATION)


def guided_nms(found: Scored) -> Left:
    """Algorithm 1: greedy by predicted IoU within classes; a box takes the largest p of what it removes."""
    return _calibrated(found, FusionName.LOCALIZATION, OutScore.CLASSIFICATION_CLUSTERED)


def gaussian_soft_nms(found: Scored) -> Left:
    """Soft-NMS with its authors' values; IoU-Net does not say which decay it compares itself with."""
    index_N, score_N = soft_nms(found.boxes_K4, found.label_K, found.p_K, SoftNms())
    return _best(index_N, score_N.astype(np.float32))


def _calibrated(found: Scored, fusion: FusionName, score: OutScore) -> Left:
    many = len(found.p_K)
    p_KC = np.zeros((many, int(found.label_K.max(initial=0)) + 1), np.float32)
    p_KC[np.arange(many), found.label_K] = found.p_K
    # Nothing is cut here by the ranking key: IoU-guided, the hundred best are those of the largest p.
    attributes = NmsAttributes(
        out_score=score,
        candidate_floor=0.0,  # the systems have filtered
        pre_nms_top_k=TENSORRT_TOP_K_LIMIT,
        max_detections=TENSORRT_TOP_K_LIMIT,
    )
    kept = calibrated_nms(
        found.boxes_K4,
        p_KC,
        found.q_K[:, None],
        exponents=Fusion(name=fusion).exponents(),
        score_threshold=NO_THRESHOLD,
        iou_threshold=NMS_IOU,
        attributes=attributes,
    )
    return _best(kept.anchor_class // p_KC.shape[1], kept.scores)


def _best(index_N: NDArray[np.int64], score_N: NDArray[np.float32]) -> Left:
    order = np.argsort(-score_N, kind="stable")[:DETECTIONS]
    return Left(index_N[order], score_N[order])

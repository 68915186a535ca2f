"""How well scores say the IoU: correlation, LaECE0 and reliability."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibox_core import score_calibration
from calibox_core.coco_metrics import CORRELATION_MIN_IOU, CORRELATION_MIN_P, pearson
from calibox_training.reproduce.rankings import ImageFound


def correlations(found: Sequence[ImageFound]) -> dict[str, float | None]:
    """Pearson and Spearman correlation with the true IoU of candidates before suppression, p > 0.05 and IoU > 0.5.

    Returns: `pearson_score`, `spearman_score`, the same for `classification` (p) and `localization` (q), None for a
        constant, and `candidates`, how many entered.
    """
    from scipy.stats import rankdata

    samples = np.concatenate([np.empty((0, 4), np.float32), *(one.samples for one in found)]).astype(np.float64)
    used = samples[(samples[:, 0] > CORRELATION_MIN_P) & (samples[:, 3] > CORRELATION_MIN_IOU)]
    named = dict(zip(("classification", "localization", "score"), used.T, strict=False))
    linear = {f"pearson_{name}": pearson(values, used[:, 3]) for name, values in named.items()}
    ranks = rankdata(used[:, 3])
    spearman = {f"spearman_{name}": pearson(rankdata(values), ranks) for name, values in named.items()}
    return {**linear, **spearman, "candidates": float(len(used))}


def laece0(found: Sequence[ImageFound], objects: Sequence[int]) -> float | None:
    """Localisation-aware calibration error with a matching threshold of 0, mean over classes with detections.

    Per class the gap between mean score and mean IoU in 25 bins of the score, weighted by the share of detections; the
    IoU is that of the best object of the class. Fusions have scores of different scale, so no score threshold treats
    them alike: as many best detections of a class enter as the split has objects of it.

    Args:
        found: detections of all images.
        objects: number of objects of each class.
    """
    labels, scores, iou = _joined(found)
    errors = []
    for label, count in enumerate(objects):
        mine = labels == label
        order = np.argsort(-scores[mine], kind="stable")[:count]
        if len(order):
            errors.append(score_calibration.binned_error(scores[mine][order], iou[mine][order]))
    return float(np.mean(errors)) if errors else None


def reliability(found: Sequence[ImageFound]) -> list[tuple[float, float, int]]:
    """Mean score, mean IoU and number of detections in ten bins of the score; empty bins are left out."""
    _, scores, iou = _joined(found)
    return [
        (round(score, 4), round(mean, 4), count) for score, mean, count in score_calibration.reliability(scores, iou)
    ]


def _joined(found: Sequence[ImageFound]) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    labels = np.concatenate([np.empty(0, np.int64), *(one.labels_N for one in found)])
    scores = np.concatenate([np.empty(0), *(one.scores_N for one in found)])
    iou = np.concatenate([np.empty(0), *(one.iou_N for one in found)]).astype(np.float64)
    return labels, scores, iou

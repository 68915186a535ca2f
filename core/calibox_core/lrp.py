"""The Localisation Recall Precision error, and the score threshold at which it is least.

Source: Oksuz, Cam, Kalkan, Akbas, "One Metric to Measure Them All: Localisation Recall Precision (LRP) for Evaluating
Visual Detection Tasks", PAMI 2021. A detection is right at an IoU of at least 0.5; every right one costs
``(1 - IoU) / (1 - 0.5)``, every false alarm and every missed object 1, and the sum is divided by their number. oLRP is
the least over all score thresholds.

Letters: N detections of a class, best score first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibox_core.coco_matching import ClassMatches

MATCH_IOU = 0.5


@dataclass(frozen=True, slots=True)
class OptimalLrp:
    """LRP of one class at its best threshold; everything is an error in 0..1, less is better."""

    error: float  # oLRP
    localization: float | None  # mean of 1 - IoU over right detections, 0..0.5; None without one
    false_positive: float | None  # 1 - precision; None where no detection is kept
    false_negative: float  # 1 - recall
    threshold: float | None  # scores of at least this are kept; None where nothing is worth keeping


def optimal_lrp(one: ClassMatches, threshold: int = 0) -> OptimalLrp | None:
    """OLRP of a class; None without an object that can be found. What a crowd region excuses counts for nothing.

    Args:
        one: matches of the class.
        threshold: number of the threshold that is `MATCH_IOU`.
    """
    objects = int(one.objects_I.sum())
    if objects == 0:
        return None
    counts = one.counts_TN[threshold]
    scores, hits = one.scores_N[counts], one.hit_TN[threshold][counts]
    iou = one.iou_TN[threshold][counts].astype(np.float64)
    right = np.cumsum(hits)
    wrong = np.cumsum(~hits)
    loss = np.cumsum(np.where(hits, 1 - iou, 0.0))
    errors = (loss / (1 - MATCH_IOU) + wrong + objects - right) / (wrong + objects)
    # A threshold cannot part equal scores: only the last of them is a place to cut.
    errors[:-1][scores[:-1] == scores[1:]] = np.inf
    # To keep nothing misses every object, an error of 1. Nothing is kept where no threshold does better.
    if not len(errors) or errors.min() >= 1:
        return OptimalLrp(1.0, None, None, 1.0, None)
    best = int(errors.argmin())
    found = int(right[best])
    return OptimalLrp(
        error=float(errors[best]),
        localization=float(loss[best] / found),  # below 1 there is a right one
        false_positive=float(wrong[best] / (wrong[best] + found)),
        false_negative=1 - found / objects,
        threshold=float(scores[best]),
    )


def resampled_lrp(
    matches: Sequence[ClassMatches], weights_BI: NDArray[np.float32], threshold: int = 0
) -> NDArray[np.float64]:
    """OLRP of resamplings of the images, ``[B]``: mean over the classes that have objects in it, or NaN.

    Args:
        matches: of every class.
        weights_BI: how often each image is drawn.
        threshold: number of the threshold that is `MATCH_IOU`.
    """
    by_class = np.array([[_weighted_lrp(one, weights_I, threshold) for one in matches] for weights_I in weights_BI])
    there = ~np.isnan(by_class)
    count = there.sum(axis=1)
    return np.where(count > 0, np.where(there, by_class, 0).sum(axis=1) / np.maximum(count, 1), np.nan)


def _weighted_lrp(one: ClassMatches, weights_I: NDArray[np.float32], threshold: int) -> float:
    """NaN without an object."""
    objects = float(weights_I @ one.objects_I)
    if objects == 0:
        return float("nan")
    counts = one.counts_TN[threshold]
    scores, hits = one.scores_N[counts], one.hit_TN[threshold][counts]
    weight = weights_I[one.image_N[counts]].astype(np.float64)
    right, wrong = np.cumsum(weight * hits), np.cumsum(weight * ~hits)
    loss = np.cumsum(np.where(hits, weight * (1 - one.iou_TN[threshold][counts].astype(np.float64)), 0.0))
    errors = (loss / (1 - MATCH_IOU) + wrong + objects - right) / (wrong + objects)
    errors[:-1][scores[:-1] == scores[1:]] = np.inf
    return min(1.0, float(errors.min(initial=1.0)))


def mean_lrp(classes: Sequence[OptimalLrp | None]) -> dict[str, float | None]:
    """Mean of the errors over classes with objects, of the components over classes that have them.

    Returns: ``oLRP``, ``oLRP_localization``, ``oLRP_false_positive`` and ``oLRP_false_negative``, None where no class
        has one.
    """
    there = [one for one in classes if one is not None]
    named = {
        "oLRP": [one.error for one in there],
        "oLRP_localization": [one.localization for one in there if one.localization is not None],
        "oLRP_false_positive": [one.false_positive for one in there if one.false_positive is not None],
        "oLRP_false_negative": [one.false_negative for one in there],
    }
    return {name: float(np.mean(values)) if values else None for name, values in named.items()}

"""COCO's average precision of many resamplings of the images at once.

An image that is drawn twice counts twice: hits and false alarms are summed with the images' weights, so detections are
sorted once and matched once. Precision need be known at hits only: between two of them it falls, and COCO takes the
best precision at or beyond a recall.

Letters: B resamplings, I images, T IoU thresholds, J hits of a class at one threshold, R recall points.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.coco_matching import THRESHOLDS, ClassMatches

RECALLS = np.linspace(0, 1, 101)  # pycocotools' own expression and rounding
SMALLEST = np.spacing(1)  # pycocotools adds it to a precision's denominator
TAILS = (2.5, 97.5)  # percentiles of a 95 % interval
Interval = tuple[float, float, float]  # estimate, 2.5 % and 97.5 % percentiles


def whole(images: int) -> NDArray[np.float32]:
    """Weights ``[1, I]`` of the data set as it is."""
    return np.ones((1, images), np.float32)


def resampled(images: int, draws: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Weights ``[B, I]``: how often each image is drawn, with replacement; the same seed pairs everything."""
    generator = np.random.default_rng(seed)
    chosen = generator.integers(0, images, (draws, images))
    return np.stack([np.bincount(row, minlength=images) for row in chosen]).astype(np.float32)


def average_precision(matches: Sequence[ClassMatches], weights_BI: NDArray[np.float32]) -> NDArray[np.float64]:
    """AP at each IoU threshold, ``[B, T]``: mean over the classes that have objects in the resampling, or NaN."""
    by_class = np.stack([_class_precision(one, weights_BI) for one in matches])
    there = ~np.isnan(by_class)
    total = np.where(there, by_class, 0).sum(axis=0)
    count = there.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(estimate: Any, draws: NDArray[np.float64]) -> Interval:
    """Estimate with the 2.5 % and 97.5 % percentiles of its draws; resamplings without any object are left out."""
    known = draws[~np.isnan(draws)]
    low, high = np.percentile(known, TAILS) if len(known) else (np.nan, np.nan)
    return round(float(estimate), 6), round(float(low), 6), round(float(high), 6)


def recall(matches: Sequence[ClassMatches], weights_I: NDArray[np.float32], threshold: int) -> float:
    """Recall of all detections at the threshold of this number, mean over classes that have objects."""
    found = [
        float((weights_I[one.image_N] * one.hit_TN[threshold]).sum()) / there
        for one in matches
        if (there := float(weights_I @ one.objects_I)) > 0
    ]
    return float(np.mean(found)) if found else float("nan")


def _class_precision(one: ClassMatches, weights_BI: NDArray[np.float32]) -> NDArray[np.float64]:
    """``[B, T]``; NaN where no object is drawn."""
    there_B = (weights_BI @ one.objects_I.astype(np.float32)).astype(np.int64)
    needed_BR = _hits_needed(there_B)
    columns = [_threshold_precision(one, t, weights_BI, needed_BR) for t in range(len(THRESHOLDS))]
    return np.where(there_B[:, None] > 0, np.stack(columns, axis=1), np.nan)


def _hits_needed(there_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """Least number of hits whose recall, divided as pycocotools does, is at least each recall point: ``[B, R]``."""
    objects, position = np.unique(there_B, return_inverse=True)
    rows = [np.searchsorted(np.arange(n + 1) / max(n, 1), RECALLS, side="left") for n in objects]
    return np.stack(rows)[position].astype(np.int64)


def _threshold_precision(
    one: ClassMatches, t: int, weights_BI: NDArray[np.float32], needed_BR: NDArray[np.int64]
) -> NDArray[np.float64]:
    """``[B]``: interpolated precision, mean over recall points."""
    hits = np.flatnonzero(one.hit_TN[t])
    alarms = np.flatnonzero(one.counts_TN[t] & ~one.hit_TN[t])
    draws, images = weights_BI.shape
    if not len(hits):
        return np.zeros(draws)
    # False alarms of each image above each hit: as a product of matrices they are summed for all resamplings at once.
    # float32 holds whole numbers below 2^24 exactly.
    alarms_IJ = np.zeros((images, len(hits) + 1), np.float32)
    np.add.at(alarms_IJ, (one.image_N[alarms], np.searchsorted(hits, alarms)), 1)
    above_BJ = (weights_BI @ np.cumsum(alarms_IJ[:, :-1], axis=1)).astype(np.float64)
    true_BJ = np.cumsum(weights_BI[:, one.image_N[hits]], axis=1, dtype=np.float64)
    precision_BJ = true_BJ / (above_BJ + true_BJ + SMALLEST)
    best_BJ = np.maximum.accumulate(precision_BJ[:, ::-1], axis=1)[:, ::-1]
    # One search over all rows: counts are whole numbers, and each row is lifted above the one before.
    lift_B1 = np.arange(draws)[:, None] * (int(true_BJ[:, -1].max()) + int(needed_BR.max()) + 1)
    places_BR = np.searchsorted(
        (true_BJ.astype(np.int64) + lift_B1).ravel(), (needed_BR + lift_B1).ravel(), side="left"
    ).reshape(needed_BR.shape)
    within_BR = places_BR - np.arange(draws)[:, None] * len(hits)
    reached_BR = within_BR < len(hits)
    values_BR = np.take_along_axis(best_BJ, np.minimum(within_BR, len(hits) - 1), axis=1)
    mean_B: NDArray[np.float64] = np.where(reached_BR, values_BR, 0).mean(axis=1)
    return mean_B

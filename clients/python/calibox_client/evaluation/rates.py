"""Precision, recall and F1 of what is returned, with intervals.

Letters: I images, B resamplings of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calibox_core.bootstrap import TAILS, resampled
from calibox_core.coco_matching import ClassMatches
from calibox_core.operating_point import PointMeasure, Rate

DRAWS = 1000  # resamplings of the images behind an interval
TWO_SIDED = NormalDist().inv_cdf(0.975)  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Counts:
    """Of each image, over all classes."""

    hits_I: NDArray[np.int64]
    kept_I: NDArray[np.int64]  # hits and false alarms
    objects_I: NDArray[np.int64]

    @classmethod
    def of(cls, matches: Sequence[ClassMatches], threshold: int) -> Self:
        """What was matched at the IoU threshold of this number."""
        images = len(matches[0].objects_I)
        hits = [np.bincount(one.image_N[one.hit_TN[threshold]], minlength=images) for one in matches]
        kept = [np.bincount(one.image_N[one.counts_TN[threshold]], minlength=images) for one in matches]
        objects = [one.objects_I for one in matches]
        return cls(*(np.stack(column).sum(axis=0).astype(np.int64) for column in (hits, kept, objects)))

    def among(self, chosen_I: NDArray[np.bool_]) -> Self:
        """Of some of the images."""
        return type(self)(self.hits_I[chosen_I], self.kept_I[chosen_I], self.objects_I[chosen_I])


def measure_rates(counts: Counts) -> PointMeasure:
    """Precision, recall and F1 with 95 % intervals.

    Intervals are percentiles over resampled images, which know that detections of an image belong together. Where
    everything was right or nothing, resampling sees no other case: precision and recall reach at least as far as
    Wilson's interval, which takes every detection for itself.
    """
    hits, kept, objects = (int(column.sum()) for column in (counts.hits_I, counts.kept_I, counts.objects_I))
    weights_BI = resampled(len(counts.hits_I), DRAWS)
    hits_B, kept_B, objects_B = (
        weights_BI @ column.astype(np.float32) for column in (counts.hits_I, counts.kept_I, counts.objects_I)
    )
    return PointMeasure(
        images=len(counts.hits_I),
        objects=objects,
        detections=kept,
        precision=_rate(hits, kept, _shares(hits_B, kept_B), wilson(hits, kept, TWO_SIDED)),
        recall=_rate(hits, objects, _shares(hits_B, objects_B), wilson(hits, objects, TWO_SIDED)),
        f1=_rate(2 * hits, kept + objects, _shares(2 * hits_B, kept_B + objects_B), None),
    )


def wilson(hits: int, trials: int, deviations: float) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) of so many standard deviations; 0 of them give the share itself."""
    if trials == 0:
        return 0.0, 1.0
    share, wide = hits / trials, deviations**2 / trials
    middle = (share + wide / 2) / (1 + wide)
    half = deviations / (1 + wide) * sqrt(share * (1 - share) / trials + wide / (4 * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def rates_text(measure: Mapping[str, Any]) -> str:
    """A measure, as plain values, in a line for people."""
    parts = [f"{name} {_shown(measure[name])}" for name in ("precision", "recall", "f1")]
    return f"{', '.join(parts)}; {measure['detections']} detections, {measure['objects']} objects"


def _shares(part_B: NDArray[Any], whole_B: NDArray[Any]) -> NDArray[np.float64]:
    """Resamplings without anything to count are left out."""
    there = whole_B > 0
    return np.asarray(part_B[there] / whole_B[there], np.float64)


def _rate(part: int, whole: int, shares_B: NDArray[np.float64], other: tuple[float, float] | None) -> Rate:
    if whole == 0:
        return Rate(value=None, low=None, high=None)
    low, high = np.percentile(shares_B, TAILS)
    if other is not None:
        low, high = min(low, other[0]), max(high, other[1])
    return Rate(value=round(part / whole, 6), low=round(float(low), 6), high=round(float(high), 6))


def _shown(rate: Mapping[str, float | None]) -> str:
    if rate["value"] is None:
        return "-"
    return f"{rate['value']:.3f} [{rate['low']:.3f}, {rate['high']:.3f}]"

"""The score threshold that reaches a wanted precision or recall, or a sentence why there is none.

For a precision it is the lowest threshold that reaches it, which finds the most; for a recall the highest, which is
wrong the least. A larger precision so never has a lower threshold, nor a larger recall a higher one.

Letters: N detections, best score first; M thresholds, one after each distinct score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from calibox_client.evaluation.rates import Counts, wilson
from calibox_core.coco_matching import ClassMatches
from calibox_core.operating_point import Wanted
from calibox_core.score_calibration import counted
from calibox_core.score_map import ScoreMap

# Fewer detections (objects, for a recall) say nothing about a rate: of 10 right ones out of 10, the share may be 0.72.
LEAST_COUNT = 10


class Unreachable(Exception):  # says what the matter is, and is never an error of the program
    """No threshold does; the text goes on from `precision 0.9 is not reached: `."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What each threshold keeps."""

    scores_M: NDArray[np.float64]  # the least that is kept, falling
    kept_M: NDArray[np.int64]
    hits_M: NDArray[np.int64]
    objects: int

    @classmethod
    def of(cls, matches: Sequence[ClassMatches], right_at: int) -> "Curve":
        """Of these classes together.

        Args:
            matches: of images to choose on.
            right_at: number of the IoU threshold from which a detection is right.
        """
        pairs = [counted(one, one.hit_TN, right_at) for one in matches]
        scores_N, hits_N = (np.concatenate([np.empty(0), *column]) for column in zip(*pairs, strict=True))
        order = np.argsort(-scores_N, kind="stable")
        scores_N, right_N = scores_N[order], np.cumsum(hits_N[order]).astype(np.int64)
        ends = np.flatnonzero(np.diff(scores_N, append=-1.0))  # a threshold cannot part equal scores
        return cls(scores_N[ends], ends + 1, right_N[ends], int(sum(one.objects_I.sum() for one in matches)))

    def beside(self, fixed: Counts) -> "Curve":
        """The same with detections that stay; the first threshold keeps nothing else."""
        hits, kept, objects = (int(column.sum()) for column in (fixed.hits_I, fixed.kept_I, fixed.objects_I))
        return Curve(
            np.append(1.0, self.scores_M),
            np.append(0, self.kept_M) + kept,
            np.append(0, self.hits_M) + hits,
            self.objects + objects,
        )


def reaching_threshold(curve: Curve, wanted: Wanted, score_map: ScoreMap) -> float:
    """On the scale of reported scores, between the last score that is kept and the next, with few digits.

    Raises:
        Unreachable: there is none.
    """
    counted_M = curve.kept_M if wanted.measure == "precision" else np.full_like(curve.kept_M, curve.objects)
    what = "detections" if wanted.measure == "precision" else "objects"
    able = np.flatnonzero(counted_M >= LEAST_COUNT)
    if not len(able):
        most = int(counted_M.max(initial=curve.objects if what == "objects" else 0))
        raise Unreachable(f"the calibration half has {most} {what}, and fewer than {LEAST_COUNT} say nothing about it")
    deviations = NormalDist().inv_cdf(wanted.confidence)
    pairs = zip(curve.hits_M[able], counted_M[able], strict=True)
    low = np.array([wilson(int(hits), int(trials), deviations)[0] for hits, trials in pairs])
    enough = able[low >= wanted.value]
    if not len(enough):
        sure = "" if wanted.confidence == 0.5 else f", with a confidence of {wanted.confidence:g}"
        raise Unreachable(f"the most that any threshold reaches is {low.max():.3f}{sure}")
    last = int(enough[-1] if wanted.measure == "precision" else enough[0])
    return _between(curve.scores_M, last, score_map)


def _between(scores_M: NDArray[np.float64], last: int, score_map: ScoreMap) -> float:
    high = float(score_map.apply(scores_M[last : last + 1])[0])
    low = float(score_map.apply(scores_M[last + 1 : last + 2])[0]) if last + 1 < len(scores_M) else 0.0
    return shortest_between(low, high)


def shortest_between(low: float, high: float) -> float:
    """The number of fewest digits in the middle half of an interval: no rounding elsewhere takes it out of it."""
    middle, quarter = (low + high) / 2, (high - low) / 4
    for digits in range(2, 17):
        rounded = round(middle, digits)
        if abs(rounded - middle) <= quarter:
            return rounded
    return middle

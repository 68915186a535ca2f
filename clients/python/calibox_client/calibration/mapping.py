"""Which map the reported score gets: chosen by cross-validation on the calibration half.

Images are held out in turn, a map is fitted on the others, and the errors of what was held out are added up. Errors are
of detections at operating thresholds, which are those of least LRP: over all detections the many that nobody would ever
show decide. The identity is one of the methods, and wins where none is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calibox_client.calibration.choices import Means
from calibox_client.calibration.increasing import METHODS, Fit
from calibox_client.evaluation.details import (
    AT_LAECE,
    MATCH_IOUS,
    from_threshold,
    only_images,
    operating_thresholds,
)
from calibox_core.coco_matching import ClassMatches
from calibox_core.lrp import MATCH_IOU
from calibox_core.score_calibration import LAECE_IOU, counted, detection_ece, laece
from calibox_core.score_map import ScoreMap

FOLDS = 5
IDENTITY = "identity"


@dataclass(frozen=True, slots=True)
class Target:
    """What the mapped score should announce, and where it stands among the thresholds of matches."""

    means: Means
    match_iou: float  # from which a detection is right; of `iou`, LaECE's own

    @property
    def thresholds(self) -> NDArray[np.float64]:
        """IoUs that detections are to be matched at: those of the calibration errors, and this one."""
        return np.array(sorted({*MATCH_IOUS, self.match_iou}))

    @property
    def right_at(self) -> int:
        """Number of the threshold from which a detection is right."""
        return int(np.searchsorted(self.thresholds, self.match_iou))

    @property
    def told_iou(self) -> float:
        """IoU from which a target is not 0."""
        return LAECE_IOU if self.means is Means.IOU else self.match_iou

    @classmethod
    def d_ece(cls) -> Self:
        """What D-ECE holds a score against."""
        return cls(Means.PRECISION, MATCH_IOU)

    @classmethod
    def laece(cls) -> Self:
        """What LaECE holds a score against."""
        return cls(Means.IOU, MATCH_IOU)

    @property
    def name(self) -> str:
        """Of its error: `LaECE`, `D_ECE`, or `D_ECE75` where a detection is right from another IoU than 0.5."""
        if self.means is Means.IOU:
            return "LaECE"
        return "D_ECE" if self.match_iou == MATCH_IOU else f"D_ECE{100 * self.match_iou:g}"

    @property
    def counted_at(self) -> int:
        """Number of the threshold that says which detections count."""
        return AT_LAECE if self.means is Means.IOU else self.right_at

    def told(self, one: ClassMatches) -> NDArray[Any]:
        """What scores should announce, of every threshold."""
        return one.iou_TN if self.means is Means.IOU else one.hit_TN

    def pairs(self, matches: Sequence[ClassMatches]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and targets of all classes."""
        by_class = [counted(one, self.told(one), self.counted_at) for one in matches]
        scores, targets = (np.concatenate([np.empty(0), *column]) for column in zip(*by_class, strict=True))
        return scores, targets

    def error(self, matches: Sequence[ClassMatches]) -> float | None:
        """LaECE of a score that announces an IoU, D-ECE of one that announces precision; None without detections."""
        return laece(matches, AT_LAECE) if self.means is Means.IOU else detection_ece(matches, self.right_at)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The map that was chosen."""

    score_map: ScoreMap
    method: str
    errors: Mapping[str, float | None]  # by method, on held-out images


def choose_map(matches: Sequence[ClassMatches], chosen_I: NDArray[np.bool_], target: Target) -> Fitted:
    """The method of least error on held-out images, fitted on all of them.

    Args:
        matches: of every class, at the target's thresholds, with raw scores.
        chosen_I: images to choose on.
        target: what to announce.
    """
    own = [only_images(one, chosen_I) for one in matches]
    methods: dict[str, Fit] = {IDENTITY: lambda *_: ScoreMap(), **METHODS}
    errors = {name: _held_out_error(own, chosen_I, target, fit) for name, fit in methods.items()}
    known = {name: error for name, error in errors.items() if error is not None}
    method = min(known, key=lambda name: known[name], default=IDENTITY)
    return Fitted(methods[method](*target.pairs(own)) or ScoreMap(), method, errors)


def mapped(matches: Sequence[ClassMatches], score_map: ScoreMap) -> list[ClassMatches]:
    """The same with mapped scores."""
    return [replace(one, scores_N=score_map.apply(one.scores_N)) for one in matches]


def at_least_lrp(matches: Sequence[ClassMatches]) -> list[ClassMatches]:
    """What is kept at the thresholds of least LRP."""
    pairs = zip(matches, operating_thresholds(matches), strict=True)
    return [from_threshold(one, threshold) for one, threshold in pairs]


def _held_out_error(
    matches: Sequence[ClassMatches], chosen_I: NDArray[np.bool_], target: Target, fit: Fit
) -> float | None:
    """None where a map cannot be fitted, or nothing is kept."""
    fold_I = np.full(len(chosen_I), -1)
    fold_I[chosen_I] = np.arange(chosen_I.sum()) % FOLDS
    kept = at_least_lrp(matches)
    scores = [one.scores_N.copy() for one in kept]
    for fold in range(FOLDS):
        score_map = fit(*target.pairs([only_images(one, chosen_I & (fold_I != fold)) for one in matches]))
        if score_map is None:
            return None
        for one, own in zip(kept, scores, strict=True):
            held = fold_I[one.image_N] == fold
            own[held] = score_map.apply(one.scores_N[held])
    return target.error([replace(one, scores_N=own) for one, own in zip(kept, scores, strict=True)])

"""What lies behind an AP: classes, LRP, and how far each of the three scores is from what it announces.

Operating thresholds (those of least LRP, one per class) are chosen on every other measured image, and calibration is
reported on the others. Letters: N detections, I images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.found import Rows, as_found, best_iou, best_rows, found_of
from calibox_core.coco_matching import ClassMatches, FoundObjects, ObjectBoxes, annotated_objects, match_split
from calibox_core.coco_metrics import Metrics, score_iou_correlations
from calibox_core.dataset import calibration_and_test_ids
from calibox_core.lrp import MATCH_IOU, mean_lrp, optimal_lrp
from calibox_core.score_calibration import (
    LAECE0_IOU,
    LAECE_IOU,
    ReliabilityBin,
    counted,
    detection_ece,
    laace,
    laece,
    reliability,
)

# Overlaps at which detections are matched: "at all", LaECE's, and that of LRP and D-ECE.
MATCH_IOUS = (LAECE0_IOU, LAECE_IOU, MATCH_IOU)
AT_LAECE0, AT_LAECE, AT_MATCH = range(3)
MAP_CELLS = 20  # of each side of a map of score against IoU


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """How well one of the three scores says what it announces."""

    errors: Metrics  # at operating thresholds: D_ECE, LaECE, LaECE0, LaACE0; `all_` before: over every detection
    kept: int  # detections at these thresholds
    reliability_iou: Sequence[ReliabilityBin]  # of every detection, against the IoU with what it is matched with
    reliability_precision: Sequence[ReliabilityBin]  # against being right at IoU 0.5
    score_iou_counts: Sequence[Sequence[int]]  # detections by score (rows) and best IoU (columns), 20 x 20


@dataclass(frozen=True, slots=True)
class Details:
    """Everything of one evaluation that is more than COCO's table."""

    classes: Sequence[Mapping[str, Any]]  # one row each
    lrp: Metrics
    scores: Mapping[str, ScoreReport]
    correlations: Metrics

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "lrp": self.lrp,
            "per_class": list(self.classes),
            "correlations": self.correlations,
            "calibration": {name: asdict(one) for name, one in self.scores.items()},
        }


@dataclass(frozen=True, slots=True)
class Truth:
    """The objects of the measured images."""

    image_ids: Sequence[int]  # rising
    category_ids: Sequence[int]  # by label
    names: Sequence[str]
    objects: Sequence[ObjectBoxes]

    @property
    def objects_I(self) -> NDArray[np.int64]:
        """Objects of each image that can be found."""
        return np.array([int((~one.crowd_G).sum()) for one in self.objects], np.int64)

    @property
    def choosing_I(self) -> NDArray[np.bool_]:
        """Images that thresholds are chosen on: every other one."""
        return np.isin(self.image_ids, calibration_and_test_ids(self.image_ids)[0])


def truth_of(annotations: Mapping[str, Any], image_ids: Sequence[int]) -> Truth:
    """The objects of some images of a COCO document."""
    categories = sorted(annotations["categories"], key=lambda entry: int(entry["id"]))
    category_ids = [int(entry["id"]) for entry in categories]
    every = dict(
        zip(
            sorted(entry["id"] for entry in annotations["images"]),
            annotated_objects(annotations, category_ids),
            strict=True,
        )
    )
    wanted = sorted(image_ids)
    return Truth(wanted, category_ids, [str(entry["name"]) for entry in categories], [every[i] for i in wanted])


def measure_details(truth: Truth, results: Rows, by_class: Mapping[int, Metrics], rank_by: RankBy) -> Details:
    """Everything but COCO's table.

    Args:
        truth: of the measured images.
        results: COCO results with all three scores.
        by_class: COCO's measures of each category.
        rank_by: the score that classes and LRP are measured with.
    """
    found = {
        name: found_of(results, truth.image_ids, truth.category_ids, rank_by=name)
        for name in (str(one) for one in RankBy)
    }
    matched = {
        name: match_split(own, truth.objects, len(truth.names), np.array(MATCH_IOUS)) for name, own in found.items()
    }
    matches = matched[rank_by]
    errors = [optimal_lrp(one, AT_MATCH) for one in matches]
    rows = [
        {
            "name": name,
            "category_id": category,
            "objects": int(one.objects_I.sum()),
            "detections": len(one.scores_N),
            **by_class.get(category, {}),
            "oLRP": error and error.error,
            "oLRP_localization": error and error.localization,
            "oLRP_false_positive": error and error.false_positive,
            "oLRP_false_negative": error and error.false_negative,
            "threshold": error and error.threshold,
        }
        for name, category, one, error in zip(truth.names, truth.category_ids, matches, errors, strict=True)
    ]
    scores = {name: score_report(own, found[name], truth) for name, own in matched.items()}
    return Details(rows, mean_lrp(errors), scores, _correlations(truth, results))


def score_report(matches: Sequence[ClassMatches], found: Sequence[FoundObjects], truth: Truth) -> ScoreReport:
    """Calibration of the score that ``found`` is ordered by.

    Args:
        matches: of ``found`` at `MATCH_IOUS`.
        found: in every image.
        truth: of the same images.
    """
    choosing_I = truth.choosing_I
    thresholds = operating_thresholds([only_images(one, choosing_I) for one in matches])
    tested = [only_images(one, ~choosing_I) for one in matches]
    kept = [from_threshold(one, threshold) for one, threshold in zip(tested, thresholds, strict=True)]
    whole = {f"all_{name}": value for name, value in calibration_errors(tested).items()}
    return ScoreReport(
        errors={**calibration_errors(kept), **whole},
        kept=sum(len(one.scores_N) for one in kept),
        reliability_iou=_diagram([counted(one, one.iou_TN, AT_LAECE0) for one in tested]),
        reliability_precision=_diagram([counted(one, one.hit_TN, AT_MATCH) for one in tested]),
        score_iou_counts=_score_iou_counts(found, truth),
    )


def calibration_errors(matches: Sequence[ClassMatches]) -> Metrics:
    """The four errors of matches at `MATCH_IOUS`; None without any detection."""
    return {
        "D_ECE": detection_ece(matches, AT_MATCH),
        "LaECE": laece(matches, AT_LAECE),
        "LaECE0": laece(matches, AT_LAECE0),
        "LaACE0": laace(matches, AT_LAECE0),
    }


def operating_thresholds(matches: Sequence[ClassMatches]) -> list[float | None]:
    """The score of least LRP of each class, of matches at `MATCH_IOUS`; None where nothing is worth keeping."""
    errors = [optimal_lrp(one, AT_MATCH) for one in matches]
    return [None if error is None else error.threshold for error in errors]


def _diagram(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> list[ReliabilityBin]:
    scores, targets = (np.concatenate([np.empty(0), *column]) for column in zip(*pairs, strict=True))
    return reliability(scores, targets)


def only_images(one: ClassMatches, wanted_I: NDArray[np.bool_]) -> ClassMatches:
    """What was matched in some of the images."""
    return _only(one, wanted_I[one.image_N], np.where(wanted_I, one.objects_I, 0))


def from_threshold(one: ClassMatches, threshold: float | None) -> ClassMatches:
    """What has at least this score; nothing where there is no threshold."""
    kept = np.zeros(len(one.scores_N), np.bool_) if threshold is None else one.scores_N >= threshold
    return _only(one, kept, one.objects_I)


def _only(one: ClassMatches, kept_N: NDArray[np.bool_], objects_I: NDArray[np.int64]) -> ClassMatches:
    return ClassMatches(
        one.image_N[kept_N],
        one.hit_TN[:, kept_N],
        one.counts_TN[:, kept_N],
        objects_I,
        one.scores_N[kept_N],
        one.iou_TN[:, kept_N],
    )


def _score_iou_counts(found: Sequence[FoundObjects], truth: Truth) -> list[list[int]]:
    scores = np.concatenate([np.empty(0), *(own.scores_N for own in found)])
    ious = [best_iou(own, objects) for own, objects in zip(found, truth.objects, strict=True)]
    unit = ((0.0, 1.0), (0.0, 1.0))
    counts, _, _ = np.histogram2d(scores, np.concatenate([np.empty(0), *ious]), bins=MAP_CELLS, range=unit)
    rows: list[list[int]] = counts.astype(np.int64).tolist()
    return rows


def _correlations(truth: Truth, results: Rows) -> Metrics:
    """Of the scores of detections with the IoU that each reaches."""
    best = best_rows(results, truth.image_ids, truth.category_ids, rank_by=RankBy.SCORE)
    found = [as_found(rows, truth.category_ids, rank_by=RankBy.SCORE) for rows in best]
    ious = [best_iou(own, objects) for own, objects in zip(found, truth.objects, strict=True)]
    p, q, score = (
        np.array([row[name] for rows in best for row in rows], np.float64)
        for name in (RankBy.CLASSIFICATION_SCORE, RankBy.LOCALIZATION_SCORE, RankBy.SCORE)
    )
    return score_iou_correlations(p, q, score, np.concatenate([np.empty(0), *ious]))

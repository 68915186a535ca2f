"""Operating points: thresholds for what is wanted, and what they give on both halves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibox_client.calibration.errors import CalibrationError
from calibox_client.calibration.thresholds import Curve, Unreachable, reaching_threshold
from calibox_client.evaluation.details import from_threshold, only_images
from calibox_client.evaluation.rates import Counts, measure_rates
from calibox_core.coco_matching import ClassMatches
from calibox_core.fusion import Fusion
from calibox_core.operating_point import OperatingPoint, Wanted
from calibox_core.score_map import ScoreMap

USUAL_IOU = 0.5  # a point's name tells any other


@dataclass(frozen=True, slots=True)
class Evidence:
    """What points are chosen and measured on.

    Args:
        matches: of every class, with raw scores.
        names: of the classes, as the model calls them.
        right_at: number of the IoU threshold from which a detection is right.
        choosing_I: images to choose on; the others are told of.
    """

    matches: Sequence[ClassMatches]
    names: Sequence[str]
    right_at: int
    choosing_I: NDArray[np.bool_]

    def curve(self, classes: Sequence[ClassMatches]) -> Curve:
        """Of the images to choose on."""
        return Curve.of([only_images(one, self.choosing_I) for one in classes], self.right_at)

    def curve_beside(self, thresholds: Mapping[str, float]) -> Curve:
        """Of all classes together, where those named here stay at these raw scores and a threshold moves the others."""
        named = list(zip(self.names, self.matches, strict=True))
        moving = self.curve([one for name, one in named if name not in thresholds])
        fixed = [
            only_images(from_threshold(one, thresholds[name]), self.choosing_I)
            for name, one in named
            if name in thresholds
        ]
        return moving.beside(Counts.of(fixed, self.right_at))


def read_wanted(
    precisions: Sequence[float], recalls: Sequence[float], match_iou: float, confidence: float
) -> list[Wanted]:
    """What is wanted, each once.

    Raises:
        CalibrationError: a rate that is not between 0 and 1.
    """
    asked = [("precision", value) for value in precisions] + [("recall", value) for value in recalls]
    for measure, value in asked:
        if not 0 < value < 1:
            raise CalibrationError(f"--{measure} {value:g}: a rate lies between 0 and 1, like 0.9")
    return [
        Wanted.model_validate({"measure": measure, "value": value, "match_iou": match_iou, "confidence": confidence})
        for measure, value in dict.fromkeys(asked)
    ]


def point_name(wanted: Wanted) -> str:
    """`precision90`; of 0.925 `precision92.5`; at another IoU than 0.5 `precision90-iou75`."""
    iou = "" if wanted.match_iou == USUAL_IOU else f"-iou{100 * wanted.match_iou:g}"
    return f"{wanted.measure}{100 * wanted.value:g}{iou}"


def find_points(
    wanted: Sequence[Wanted], evidence: Evidence, fusion: Fusion, score_map: ScoreMap, *, per_class: bool
) -> tuple[list[OperatingPoint], list[str]]:
    """Points that reach what is wanted on the images to choose on, and a sentence for whatever cannot be reached.

    Args:
        wanted: rates.
        evidence: of this ranking.
        fusion: the ranking.
        score_map: thresholds are on its scale.
        per_class: whether classes get thresholds of their own.
    """
    points: list[OperatingPoint] = []
    notes: list[str] = []
    for one in wanted:
        try:
            overall = reaching_threshold(evidence.curve(evidence.matches), one, score_map)
        except Unreachable as why:
            notes.append(f"{point_name(one)} is left out: {one.measure} {one.value:g} is not reached: {why}")
            continue
        by_class: dict[str, float] = {}
        if per_class:
            overall, by_class, told = _of_classes_and_rest(one, evidence, score_map, overall)
            notes += [f"{point_name(one)}: {sentence}" for sentence in told]
        points.append(_measured(one, evidence, fusion, score_map, overall, by_class))
    return points, notes


def _of_classes_and_rest(
    wanted: Wanted, evidence: Evidence, score_map: ScoreMap, overall: float
) -> tuple[float, dict[str, float], list[str]]:
    """The common threshold, those of classes, and what to tell.

    Classes that do not reach what is wanted share a threshold at which all classes together still do, those with
    thresholds of their own at these. Where there is none, all share the one that was found for all.
    """
    by_class, missing = _of_classes(wanted, evidence, score_map)
    if not by_class or not missing:
        return overall, by_class, missing
    raw = {name: score_map.invert(value) for name, value in by_class.items()}
    try:
        common = reaching_threshold(evidence.curve_beside(raw), wanted, score_map)
    except Unreachable:
        told = f"all classes have the common threshold {overall:g}: with thresholds of their own, all together miss it"
        return overall, {}, [*missing, told]
    return common, by_class, [f"{sentence}; it has the common threshold {common:g}" for sentence in missing]


def _of_classes(wanted: Wanted, evidence: Evidence, score_map: ScoreMap) -> tuple[dict[str, float], list[str]]:
    found: dict[str, float] = {}
    missing: list[str] = []
    for name, one in zip(evidence.names, evidence.matches, strict=True):
        try:
            found[name] = reaching_threshold(evidence.curve([one]), wanted, score_map)
        except Unreachable as why:
            missing.append(f"{name} does not reach {wanted.measure} {wanted.value:g} by itself: {why}")
    return found, missing


def _measured(
    wanted: Wanted,
    evidence: Evidence,
    fusion: Fusion,
    score_map: ScoreMap,
    overall: float,
    by_class: Mapping[str, float],
) -> OperatingPoint:
    kept = [
        from_threshold(one, score_map.invert(by_class.get(name, overall)))
        for name, one in zip(evidence.names, evidence.matches, strict=True)
    ]
    counts = Counts.of(kept, evidence.right_at)
    sure = "" if wanted.confidence == 0.5 else f" with a confidence of {wanted.confidence:g}"
    return OperatingPoint(
        name=point_name(wanted),
        description=f"{wanted.measure.capitalize()} of at least {wanted.value:g} at an IoU of {wanted.match_iou:g} on "
        f"the calibration half{sure}.",
        wanted=wanted,
        fusion=fusion,
        score_threshold=overall,
        class_thresholds=dict(by_class),
        calibration=measure_rates(counts.among(evidence.choosing_I)),
        test=measure_rates(counts.among(~evidence.choosing_I)),
    )

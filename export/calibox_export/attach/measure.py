"""Before and after: a foreign detector's own ranking against those that the localization score makes possible.

The fusion, and whether boxes are refined, are chosen on the calibration half of the validation split by AP; everything
that is reported is of the test half. Intervals: 95 %, paired bootstrap over images.

Letters: I images, N pairs of a box and a class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from calibox_core.bootstrap import Interval, average_precision, interval, resampled
from calibox_core.boxes import pairwise_iou, xyxy_to_xywh
from calibox_core.coco_matching import ClassMatches, annotated_objects, match_split
from calibox_core.coco_metrics import Metrics, score_iou_correlations
from calibox_core.dataset import calibration_and_test_ids
from calibox_core.fusion import Fusion, FusionName, fuse
from calibox_core.manifest import ClassInfo
from calibox_core.nms import NmsAttributes, OutScore, calibrated_nms
from calibox_export.attach.scoring import ScoredImage
from calibox_training.evaluation import NO_THRESHOLD
from calibox_training.parts import Part
from calibox_training.reproduce.analysis import DRAWS
from calibox_training.reproduce.rankings import ALPHAS, POWERS, ImageFound
from calibox_training.reproduce.results import METRICS, named_metrics

BASE = "classification"


@dataclass(frozen=True, slots=True)
class Way:
    """One way to make detections of scored boxes."""

    fusion: Fusion
    out_score: OutScore = OutScore.KEY
    refined: bool = False


def fusions() -> dict[str, Fusion]:
    """What is chosen from, by name."""
    return {
        BASE: Fusion(name=FusionName.CLASSIFICATION),
        "product": Fusion(name=FusionName.PRODUCT),
        **{f"geometric {a:g}": Fusion(name=FusionName.GEOMETRIC, alpha=a) for a in ALPHAS},
        **{f"power {a:g}": Fusion(name=FusionName.POWER, alpha=a) for a in POWERS},
        "gaussian 1": Fusion(name=FusionName.GAUSSIAN, sigma=1.0),
        "localization": Fusion(name=FusionName.LOCALIZATION),
    }


class Line(Part):
    """One way, measured on the test half; AP 0..1."""

    name: str
    metrics: dict[str, float | None]
    delta: dict[str, Interval] = Field(description="Against the detector's own scores: estimate, 2.5 %, 97.5 %.")
    pearson: float | None = Field(description="Of the ranking key with the true IoU, before suppression.")


class Outcome(Part):
    """The whole comparison."""

    fusion: Fusion = Field(description="Chosen on the calibration half.")
    refine: bool = Field(description="Whether refined boxes had the better AP on the calibration half.")
    calibration_images: int
    test_images: int
    pairs: int = Field(description="That entered the correlations: p > 0.05 and IoU > 0.5, on the test half.")
    pearson_classification: float | None
    pearson_localization: float | None
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class _Measured:
    found: list[ImageFound]
    matches: list[ClassMatches]


def measure(
    images: Sequence[ScoredImage],
    annotations: Mapping[str, Any],
    classes: Sequence[ClassInfo],
    attributes: NmsAttributes,
    *,
    iou_threshold: float,
    draws: int = DRAWS,
) -> Outcome:
    """Chooses on one half, reports on the other.

    Args:
        images: of the validation split in the order of their ids.
        annotations: of the split, a COCO document.
        classes: by label.
        attributes: of the suppression; its reported score is replaced.
        iou_threshold: of the suppression.
        draws: resamplings.
    """
    objects = annotated_objects(annotations, [c.category_id for c in classes])

    def made(way: Way) -> _Measured:
        found = [image_found(image, way, attributes, iou_threshold=iou_threshold) for image in images]
        return _Measured(found, match_split(found, objects, len(classes)))

    ids = [image.record.image_id for image in images]
    test_I = np.isin(ids, calibration_and_test_ids(ids)[1])
    calibration = (~test_I).astype(np.float32)[None]
    plain = {name: made(Way(fusion)) for name, fusion in fusions().items()}
    name = max(plain, key=lambda one: _mean_precision(plain[one], calibration))
    moved = {one: made(Way(fusions()[one], refined=True)) for one in dict.fromkeys((BASE, name))}
    refine = _mean_precision(moved[name], calibration) > _mean_precision(plain[name], calibration)
    clustered = Way(fusions()["localization"], OutScore.CLASSIFICATION_CLUSTERED)
    shown = {
        BASE: plain[BASE],
        "product": plain["product"],
        "geometric 0.5": plain["geometric 0.5"],
        "localization": plain["localization"],
        "IoU-guided suppression, scores of the clusters": made(clustered),
        f"chosen: {name}": plain[name],
        f"{BASE}, refined": moved[BASE],
        f"chosen: {name}, refined": moved[name],
    }
    known = _correlations(plain[BASE], test_I)
    return Outcome(
        fusion=fusions()[name],
        refine=refine,
        calibration_images=int((~test_I).sum()),
        test_images=int(test_I.sum()),
        pairs=int(known["pearson_n"] or 0),
        pearson_classification=known["pearson_classification"],
        pearson_localization=known["pearson_localization"],
        lines=_lines(shown, test_I, draws),
    )


def image_found(image: ScoredImage, way: Way, attributes: NmsAttributes, *, iou_threshold: float) -> ImageFound:
    """Detections of an image; those that were kept are moved where the way says so, and keep their scores."""
    exponents, count = way.fusion.exponents(), len(image.labels_N)
    # Each pair is a box of its own, with a score for one class.
    p_NC = np.zeros((count, int(image.labels_N.max(initial=0)) + 1), np.float32)
    p_NC[np.arange(count), image.labels_N] = image.p_N
    kept = calibrated_nms(
        image.boxes_N4,
        p_NC,
        image.q_N[:, None],
        exponents=exponents,
        score_threshold=NO_THRESHOLD,
        iou_threshold=iou_threshold,
        attributes=attributes.model_copy(update={"out_score": way.out_score}),
    )
    order = np.argsort(-kept.scores, kind="stable")
    rows = (kept.anchor_class // p_NC.shape[1])[order]
    boxes = image.letterbox.to_image((image.refined_N4 if way.refined else image.boxes_N4)[rows])
    labels = image.labels_N[rows]
    iou_N = _true_iou(image, image.letterbox.to_image(image.boxes_N4), image.labels_N)
    fused_N = fuse(image.p_N, image.q_N, exponents)
    return ImageFound(
        boxes_N4=xyxy_to_xywh(boxes).astype(np.float64),
        labels_N=labels,
        scores_N=kept.scores[order].astype(np.float64),
        iou_N=_true_iou(image, boxes, labels),
        samples=np.stack([image.p_N, image.q_N, fused_N, iou_N], axis=1),
    )


def _true_iou(image: ScoredImage, boxes: NDArray[np.floating[Any]], labels: NDArray[np.int64]) -> NDArray[np.float32]:
    same = labels[:, None] == image.record.labels
    best: NDArray[np.float32] = np.where(same, pairwise_iou(boxes, image.record.boxes), 0).max(axis=1, initial=0)
    return best.astype(np.float32)


def _mean_precision(one: _Measured, weights_BI: NDArray[np.float32]) -> float:
    return float(np.nan_to_num(average_precision(one.matches, weights_BI)[0].mean()))


def _correlations(one: _Measured, test_I: NDArray[np.bool_]) -> Metrics:
    samples = [found.samples for found, tested in zip(one.found, test_I, strict=True) if tested]
    return score_iou_correlations(*np.concatenate([np.empty((0, 4), np.float32), *samples]).T)


def _lines(shown: Mapping[str, _Measured], test_I: NDArray[np.bool_], draws: int) -> tuple[Line, ...]:
    """Metrics on the test half, and differences to the base line in the same resamplings of it."""
    whole = test_I.astype(np.float32)[None]
    drawn = np.zeros((draws, len(test_I)), np.float32)
    drawn[:, test_I] = resampled(int(test_I.sum()), draws)
    at = {name: average_precision(one.matches, whole)[0] for name, one in shown.items()}
    spread = {name: average_precision(one.matches, drawn) for name, one in shown.items()}
    lines = []
    for name, one in shown.items():
        metrics, base = named_metrics(at[name]), named_metrics(at[BASE])
        delta = named_metrics(spread[name] - spread[BASE])
        lines.append(
            Line(
                name=name,
                metrics={key: None if np.isnan(value) else round(float(value), 6) for key, value in metrics.items()},
                delta={key: interval(metrics[key] - base[key], delta[key]) for key in METRICS},
                pearson=_correlations(one, test_I)["pearson_score"],
            )
        )
    return tuple(lines)

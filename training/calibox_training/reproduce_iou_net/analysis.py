"""Raw outputs of a cell to its result: every pipeline on the same outputs, with intervals over images."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.bootstrap import average_precision, resampled
from calibox_core.coco_matching import ObjectBoxes, annotated_objects, match_split
from calibox_core.dataset import DataFolder
from calibox_training.checkpoint import current_commit
from calibox_training.data.coco import read_records
from calibox_training.iou_net.systems import BoxSystem
from calibox_training.reproduce.analysis import DRAWS, Measured, ranking_result, whole_units
from calibox_training.reproduce.results import BASE, RankingResult, Trained
from calibox_training.reproduce_iou_net import figures
from calibox_training.reproduce_iou_net.pipelines import PIPELINES, detections
from calibox_training.reproduce_iou_net.raw import RawImage, read_raw
from calibox_training.reproduce_iou_net.results import IouNetResult


class PredictorFacts(NamedTuple):
    """Of the predictor's own training."""

    metrics: Mapping[str, float | None]
    seconds: float


def analyse(
    trained: Trained, predictor: PredictorFacts, system: BoxSystem, data: DataFolder, raw: Path, *, draws: int = DRAWS
) -> IouNetResult:
    """The result of a cell: ``trained`` its facts, ``raw`` the npz of `evaluate_raw`."""
    start = time.monotonic()
    annotations = data.annotations("val")
    images = read_raw(raw, system.input, read_records(annotations, system.classes))
    objects = annotated_objects(annotations, [c.category_id for c in system.classes])
    rankings, delta_draws = measure(images, objects, classes=len(system.classes), draws=draws)
    return IouNetResult(
        trained=trained,
        analysed_by=current_commit(),
        images=len(images),
        objects=sum(int((~one.crowd_G).sum()) for one in objects),
        own=BASE,
        rankings=rankings,
        chosen=None,
        delta_draws=delta_draws,
        reliability={},
        predictor=dict(predictor.metrics),
        predictor_seconds=round(predictor.seconds, 1),
        candidates=sum(len(image.scored.p_K) for image in images),
        **figure_numbers(annotations, images, system),
        analysis_seconds=round(time.monotonic() - start, 1),  # the last to be worked out
    )


def measure(
    images: list[RawImage], objects: list[ObjectBoxes], *, classes: int, draws: int
) -> tuple[dict[str, RankingResult], dict[str, dict[str, list[int]]]]:
    """Results of all pipelines, and each resampling's differences from standard NMS."""
    weights = resampled(len(images), draws)
    measured, drawn = {}, dict[str, NDArray[np.float64]]()
    for name in PIPELINES:
        found = list(detections(images, name))
        measured[name] = Measured(found, match_split(found, objects, classes))
        drawn[name] = average_precision(measured[name].matches, weights)
    results = {name: ranking_result(one, drawn[name], measured[BASE], drawn[BASE]) for name, one in measured.items()}
    return results, {name: whole_units(drawn[name] - drawn[BASE]) for name in PIPELINES if name != BASE}


def figure_numbers(annotations: Mapping[str, Any], images: list[RawImage], system: BoxSystem) -> dict[str, Any]:
    """Fields of the result that the figures are drawn from."""
    return {
        "confidence": figures.confidence(images),
        "positive_edges": figures.rounded(figures.POSITIVE_EDGES),
        "positives": figures.positives(images),
        "recall_thresholds": figures.rounded(figures.RECALL_THRESHOLDS),
        "recall": figures.recalls(images),
        "optimisation": figures.over_steps(annotations, images, system.classes, lambda moved: moved.refined_NS4),
        "regression": figures.over_steps(annotations, images, system.classes, lambda moved: moved.regressed_NS4),
    }

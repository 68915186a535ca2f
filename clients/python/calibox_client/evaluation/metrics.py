"""Fourth stage: numbers from answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.details import Details, Truth, measure_details
from calibox_client.evaluation.journal import Answer
from calibox_client.latencies import latency_summary
from calibox_core.coco_matching import THRESHOLDS
from calibox_core.coco_metrics import Metrics, evaluate_coco, load_ground_truth
from calibox_core.format_metrics import format_metrics


@dataclass(frozen=True, slots=True)
class Measured:
    """Accuracy of the answers, and how fast they came."""

    coco: Metrics  # 0..1, None where nothing can be measured
    own: Metrics  # of the data's format: VOC's and KITTI's
    by_threshold: Metrics  # AP50, AP55, ... AP95
    details: Details
    table: str  # as pycocotools prints it
    latency_ms: dict[str, float | None]


def coco_results(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """COCO results by image id and then in the server's order, whatever the order in which the answers came."""
    ordered = sorted(answers, key=lambda answer: answer.image_id)
    return [{"image_id": answer.image_id, **found} for answer in ordered for found in answer.detections]


def measure(
    annotations: Mapping[str, Any],
    truth: Truth,
    results: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer],
    rank_by: RankBy,
) -> Measured:
    """Accuracy and latency.

    Args:
        annotations: the COCO document.
        truth: of the images to measure on.
        results: from `coco_results`.
        answers: of the same images.
        rank_by: what orders detections.
    """
    image_ids = list(truth.image_ids)
    found = evaluate_coco(load_ground_truth(annotations), results, image_ids=image_ids, rank_by=rank_by, fast=True)
    return Measured(
        coco=found.metrics,
        own=format_metrics(annotations, results, image_ids=image_ids, rank_by=rank_by),
        by_threshold={f"AP{round(100 * iou)}": ap for iou, ap in zip(THRESHOLDS, found.by_threshold, strict=True)},
        details=measure_details(truth, results, found.by_class, rank_by),
        table=found.table,
        latency_ms=latency_summary([answer.latency_ms for answer in answers]),
    )

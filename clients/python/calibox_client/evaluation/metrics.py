"""Fourth stage: numbers from answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.journal import Answer
from calibox_core.coco_metrics import Metrics, coco_metrics, load_ground_truth
from calibox_core.format_metrics import format_metrics


@dataclass(frozen=True, slots=True)
class Measured:
    """Accuracy of the answers, and how fast they came."""

    coco: Metrics  # 0..1, None where nothing can be measured
    own: Metrics  # of the data's format: VOC's and KITTI's
    table: str  # as pycocotools prints it
    latency_ms: dict[str, float | None]


def coco_results(answers: Iterable[Answer]) -> list[dict[str, Any]]:
    """COCO results by image id and then in the server's order, whatever the order in which the answers came."""
    ordered = sorted(answers, key=lambda answer: answer.image_id)
    return [{"image_id": answer.image_id, **found} for answer in ordered for found in answer.detections]


def measure(
    annotations: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    answers: Sequence[Answer],
    rank_by: RankBy,
) -> Measured:
    """Accuracy and latency.

    Args:
        annotations: the COCO document.
        results: from `coco_results`.
        answers: of the images to measure on.
        rank_by: what orders detections.
    """
    image_ids = [answer.image_id for answer in answers]
    metrics, table = coco_metrics(load_ground_truth(annotations), results, image_ids=image_ids, rank_by=rank_by)
    own = format_metrics(annotations, results, image_ids=image_ids, rank_by=rank_by)
    return Measured(metrics, own, table, latency_summary([answer.latency_ms for answer in answers]))


def latency_summary(milliseconds: Sequence[float]) -> dict[str, float | None]:
    """Mean, percentiles (linear between neighbours) and maximum; None without any."""
    names = {"p50": 50, "p90": 90, "p95": 95, "p99": 99, "max": 100}
    if not milliseconds:
        return {"mean": None, **dict.fromkeys(names)}
    values = np.asarray(milliseconds, np.float64)
    return {"mean": float(values.mean()), **{name: float(np.percentile(values, at)) for name, at in names.items()}}

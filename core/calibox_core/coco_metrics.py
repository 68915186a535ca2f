"""COCO metrics and score-IoU correlations: one definition for training, export and the evaluation against a server.

pycocotools (extra `eval` or `train`) and faster-coco-eval (extra `eval`) are imported when called.

Letters: T thresholds, R recall points, K classes.
"""

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Detections enter the correlation above this classification score and this IoU with an object of their class:
# IoU-Net's Figure 2 uses IoU > 0.5; 0.05 keeps the background of dense detectors out.
CORRELATION_MIN_P = 0.05
CORRELATION_MIN_IOU = 0.5

# Numbers of the ten thresholds 0.5, 0.55, ... 0.95.
_THRESHOLD_KEYS = {"AP50": 0, "AP60": 2, "AP70": 4, "AP75": 5, "AP80": 6, "AP90": 8}
_CLASS_KEYS = ("AP50", "AP75", "AP90")
_STATS_KEYS = {"AP": 0, "APs": 3, "APm": 4, "APl": 5, "AR1": 6, "AR10": 7, "AR100": 8}

Metrics = dict[str, float | None]


def load_ground_truth(annotations: Mapping[str, Any]) -> Any:
    """A pycocotools ``COCO`` of an annotation document already in memory, without its messages.

    Annotations without ``area`` get that of their box, those without ``iscrowd`` are no crowd.
    """
    from pycocotools.coco import COCO

    ground_truth = COCO()
    # Copies, because an evaluation writes its `ignore` into every annotation. They are numbered anew from 1, because
    # pycocotools takes the id 0 for "unmatched" and would count a hit as a miss.
    copies = [
        {"iscrowd": 0, "area": a["bbox"][2] * a["bbox"][3], **a, "id": number}
        for number, a in enumerate(annotations["annotations"], 1)
    ]
    ground_truth.dataset = {**annotations, "annotations": copies}
    ground_truth.dataset.setdefault("info", {})
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return ground_truth


@dataclass(frozen=True, slots=True)
class CocoEvaluation:
    """COCO's measures of one set of detections, 0..1; None where nothing can be measured."""

    metrics: Metrics  # keyed as `ARCHITECTURE` lists them
    by_threshold: tuple[float | None, ...]  # AP at IoU 0.5, 0.55, ... 0.95
    by_class: Mapping[int, Metrics]  # category id to AP, AP50, AP75, AP90, AR100
    table: str  # as pycocotools prints it


def coco_metrics(
    ground_truth: Any,
    detections: Sequence[Mapping[str, Any]],
    *,
    image_ids: Sequence[int] | None = None,
    rank_by: str = "score",
) -> tuple[Metrics, str]:
    """Average precision and recall of detections, by pycocotools; arguments are those of `evaluate_coco`.

    Returns: metrics in 0..1 (None where nothing can be measured), keyed as `ARCHITECTURE` lists them, and the table
        that pycocotools prints.
    """
    found = evaluate_coco(ground_truth, detections, image_ids=image_ids, rank_by=rank_by)
    return found.metrics, found.table


def evaluate_coco(
    ground_truth: Any,
    detections: Sequence[Mapping[str, Any]],
    *,
    image_ids: Sequence[int] | None = None,
    rank_by: str = "score",
    fast: bool = False,
) -> CocoEvaluation:
    """COCO's measures of detections.

    Args:
        ground_truth: from `load_ground_truth`.
        detections: COCO results, with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height) and ``rank_by``.
        image_ids: images to measure on; all when None.
        rank_by: the key that orders detections.
        fast: faster-coco-eval (extra `eval`) matches and accumulates in place of pycocotools; its numbers are the
            same to 1e-9, which is tested.
    """
    rows = [{**d, "score": d[rank_by]} for d in detections]
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        found = ground_truth.loadRes(rows) if rows else load_ground_truth({**ground_truth.dataset, "annotations": []})
        evaluation = _accumulated(ground_truth, found, image_ids, fast=fast)
        table.seek(0)
        table.truncate()
        evaluation.summarize()
    metrics = {key: _known(evaluation.stats[i]) for key, i in _STATS_KEYS.items()}
    precision_TRK = evaluation.eval["precision"][:, :, :, 0, -1]  # all areas, 100 detections
    by_threshold = tuple(_mean(at) for at in precision_TRK)
    metrics |= {key: by_threshold[number] for key, number in _THRESHOLD_KEYS.items()}
    recall_TK = evaluation.eval["recall"][:, :, 0, -1]
    by_class = {
        int(category): {
            "AP": _mean(precision_TRK[:, :, k]),
            **{key: _mean(precision_TRK[_THRESHOLD_KEYS[key], :, k]) for key in _CLASS_KEYS},
            "AR100": _mean(recall_TK[:, k]),
        }
        for k, category in enumerate(evaluation.params.catIds)
    }
    return CocoEvaluation(metrics, by_threshold, by_class, table.getvalue())


def _accumulated(ground_truth: Any, found: Any, image_ids: Sequence[int] | None, *, fast: bool) -> Any:
    """A pycocotools ``COCOeval`` that `summarize` can be called on, whoever did its work."""
    from pycocotools.cocoeval import COCOeval

    evaluation = COCOeval(ground_truth, found, "bbox")
    worker = evaluation
    if fast:
        from faster_coco_eval import COCOeval_faster

        worker = COCOeval_faster(ground_truth, found, "bbox")
    if image_ids is not None:
        worker.params.imgIds = sorted(image_ids)
    worker.evaluate()
    worker.accumulate()
    evaluation.eval = worker.eval
    return evaluation


def score_iou_correlations(
    classification: NDArray[Any], localization: NDArray[Any], score: NDArray[Any], iou: NDArray[Any]
) -> Metrics:
    """Pearson correlation of the three scores with the true IoU, over detections before NMS.

    Args:
        classification, localization, score: ``[N]`` in 0..1.
        iou: ``[N]`` best IoU of each box with an object of its class.

    Returns: ``pearson_classification``, ``pearson_localization``, ``pearson_score`` (None for a constant) and
        ``pearson_n``, the number of detections with p > 0.05 and IoU > 0.5 that entered.
    """
    used = (classification > CORRELATION_MIN_P) & (iou > CORRELATION_MIN_IOU)
    scores = {"classification": classification, "localization": localization, "score": score}
    metrics: Metrics = {f"pearson_{name}": pearson(values[used], iou[used]) for name, values in scores.items()}
    return {**metrics, "pearson_n": float(used.sum())}


def pearson(x: NDArray[Any], y: NDArray[Any]) -> float | None:
    """Pearson's correlation of ``[N]`` with ``[N]``; None below two values, or where one side is constant."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def _known(value: float) -> float | None:
    """Pycocotools writes -1 where a split holds nothing of the kind."""
    return None if value < 0 else float(value)


def _mean(values: NDArray[Any]) -> float | None:
    """Mean of what could be measured."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None

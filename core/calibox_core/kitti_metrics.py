"""KITTI's 2D average precision of cars at IoU 0.7, for the easy, moderate and hard objects.

Written from the benchmark's description and the behaviour of its evaluation program. Per difficulty an object is
valid, ignored (a Van, or a Car that is too low, too occluded or too truncated for it) or not looked at. A detection
that takes an ignored object, that is too low itself, or that lies in a DontCare region is neither right nor wrong.
Precision is read at 41 score thresholds, spaced evenly over the recall that all detections reach.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import Floats, box_area, intersection_area, pairwise_iou, xywh_to_xyxy
from calibox_core.kitti import CAR, DONT_CARE

MIN_OVERLAP = 0.7  # of cars; must be exceeded
_SAMPLES = 41  # recall 0, 1/40, ... 1

Difficulty = Literal["easy", "moderate", "hard"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What an object may be at most (height: at least) to be valid."""

    height: float  # pixels; an object must be higher, a detection at least as high
    occluded: int
    truncated: float


LIMITS: dict[Difficulty, Limits] = {
    "easy": Limits(40, 0, 0.15),
    "moderate": Limits(25, 1, 0.30),
    "hard": Limits(25, 2, 0.50),
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One image under one difficulty: N detections, G objects (without DontCare)."""

    scores: NDArray[np.float64]  # [N]
    low: NDArray[np.bool_]  # [N] too low to count
    overlaps: NDArray[np.bool_]  # [G, N] IoU above the minimum
    iou: Floats  # [G, N]
    ignored: NDArray[np.bool_]  # [G]
    dont_care: NDArray[np.bool_]  # [N] lies in a DontCare region


def kitti_metrics(annotations: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Average precision by 40 recall points (today's benchmark) and by 11 (until 2019).

    Args:
        annotations: a COCO document whose annotations carry ``kitti_type``, ``truncated`` and ``occluded``.
        detections: COCO results of cars: ``image_id``, ``bbox`` (x, y, width, height), ``score``.

    Returns: ``KITTI_AP_R40_<difficulty>`` and ``KITTI_AP_R11_<difficulty>`` in 0..1; None where a difficulty has no
        valid object. Recall is sampled at 41 points as the benchmark's program does it, so a split with fewer than 41
        valid objects stays below 1 even when all are found.
    """
    objects, found = _by_image(annotations["annotations"]), _by_image(detections)
    images = [image["id"] for image in annotations["images"]]
    metrics: dict[str, float | None] = {}
    for difficulty, limits in LIMITS.items():
        frames = [make_frame(objects.get(image, ()), found.get(image, ()), limits) for image in images]
        precision = precision_at_recalls(frames)
        # The 40 points leave out recall 0, where one confident detection was worth a point of eleven.
        metrics[f"KITTI_AP_R40_{difficulty}"] = None if precision is None else float(precision[1:].mean())
        metrics[f"KITTI_AP_R11_{difficulty}"] = None if precision is None else float(precision[::4].mean())
    return metrics


def make_frame(objects: Sequence[Mapping[str, Any]], detections: Sequence[Mapping[str, Any]], limits: Limits) -> Frame:
    """Overlaps and flags of one image."""
    real = [o for o in objects if o["kitti_type"] != DONT_CARE]
    boxes, regions, found = (
        _boxes(real),
        _boxes([o for o in objects if o["kitti_type"] == DONT_CARE]),
        _boxes(detections),
    )
    iou = pairwise_iou(boxes, found)
    common, area = intersection_area(found, regions), box_area(found)[:, None]
    # The share of the detection, not IoU: a region holds many objects.
    inside = np.divide(common, area, out=np.zeros_like(common), where=area > 0)
    heights = np.array([d["bbox"][3] for d in detections], np.float64)
    return Frame(
        scores=np.array([d["score"] for d in detections], np.float64),
        low=heights < limits.height,
        overlaps=iou > MIN_OVERLAP,
        iou=iou,
        ignored=np.array([_is_ignored(o, limits) for o in real], np.bool_),
        dont_care=np.asarray((inside > MIN_OVERLAP).any(axis=1), np.bool_),
    )


def precision_at_recalls(frames: Sequence[Frame]) -> NDArray[np.float64] | None:
    """Precision ``[41]`` at recall 0, 1/40, ... 1, made non-increasing; None without a valid object."""
    objects = sum(int((~frame.ignored).sum()) for frame in frames)
    if objects == 0:
        return None
    scores = [score for frame in frames for score in hit_scores(frame)]
    precision = np.zeros(_SAMPLES)
    for position, threshold in enumerate(recall_thresholds(scores, objects)):
        counts = [count_at(frame, threshold) for frame in frames]
        right, wrong = (sum(column) for column in zip(*counts, strict=True))
        precision[position] = right / (right + wrong) if right + wrong else 0.0
    return np.maximum.accumulate(precision[::-1])[::-1]


def hit_scores(frame: Frame) -> list[float]:
    """Scores of the detections that find a valid object; each object takes the best score among what is left."""
    free = np.ones(len(frame.scores), np.bool_)
    scores = []
    for overlaps, ignored in zip(frame.overlaps, frame.ignored, strict=True):
        able = overlaps & free
        if not able.any():
            continue
        best = int(np.where(able, frame.scores, -np.inf).argmax())
        free[best] = False
        if not ignored and not frame.low[best]:
            scores.append(float(frame.scores[best]))
    return scores


def recall_thresholds(scores: Sequence[float], objects: int) -> list[float]:
    """The scores at which recall comes nearest to 0, 1/40, 2/40, ..., at most 41 of them."""
    ordered = sorted(scores, reverse=True)
    thresholds: list[float] = []
    recall = 0.0
    for number, score in enumerate(ordered, 1):
        last = number == len(ordered)
        here, after = number / objects, (number if last else number + 1) / objects
        if not last and after - recall < recall - here:
            continue
        thresholds.append(score)
        recall += 1 / (_SAMPLES - 1)
    return thresholds[:_SAMPLES]


def count_at(frame: Frame, threshold: float) -> tuple[int, int]:
    """Right and wrong detections with at least this score."""
    shown = frame.scores >= threshold
    free = shown.copy()
    right = 0
    for overlaps, iou, ignored in zip(frame.overlaps, frame.iou, frame.ignored, strict=True):
        able = overlaps & free
        if not able.any():
            continue
        high = able & ~frame.low
        # The largest overlap among those that count; only where none does, the first that is too low.
        taken = int(np.where(high, iou, -1.0).argmax()) if high.any() else int(able.argmax())
        free[taken] = False
        right += int(not ignored and not frame.low[taken])
    wrong = free & ~frame.low & ~frame.dont_care
    return right, int(wrong.sum())


def _is_ignored(item: Mapping[str, Any], limits: Limits) -> bool:
    return bool(
        item["kitti_type"] != CAR
        or item["occluded"] > limits.occluded
        or item["truncated"] > limits.truncated
        or item["bbox"][3] <= limits.height  # published versions of the program differ for exactly 40 or 25 pixels
    )


def _boxes(rows: Sequence[Mapping[str, Any]]) -> Floats:
    return xywh_to_xyxy(np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4))


def _by_image(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    grouped: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["image_id"], []).append(row)
    return grouped

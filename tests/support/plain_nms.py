"""CalibratedNMS as plain loops over float32 scalars: the slow obvious version, which imports nothing of calibox.

An image is anything with boxes ``[A, 4]``, p ``[A, C]``, q ``[A, 1]`` or ``[A, C]`` (all float32), exponents,
score_threshold and iou_threshold; attributes are a plain dictionary. Arithmetic is float32 throughout.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

Scalar = np.float32


@dataclass
class Row:
    """One (anchor, class) pair."""

    index: int
    box: Any
    label: int
    p: Scalar
    q: Scalar
    key: Scalar
    score: Scalar


def loop_candidates(image: Any, attributes: dict[str, Any]) -> list[Row]:
    """Pairs above the floor, the largest key first, then the smallest index."""
    rows = []
    for anchor, box in enumerate(image.boxes):
        for label, p in enumerate(image.p[anchor]):
            q = image.q[anchor][label if len(image.q[anchor]) > 1 else 0]
            if all(np.isfinite(value) for value in (*box, p, q)) and p > Scalar(attributes["candidate_floor"]):
                key = loop_key(p, q, image.exponents)
                rows.append(Row(anchor * len(image.p[anchor]) + label, box, label, p, q, key, score=p))
    return sorted(rows, key=lambda row: (-row.key, row.index))[: attributes["pre_nms_top_k"]]


def loop_key(p: Scalar, q: Scalar, exponents: tuple[float, float, float]) -> Scalar:
    """a log p + b log q - g (1 - q)^2, the logarithms of at least the smallest normal number."""
    a, b, g = map(Scalar, exponents)
    smallest = Scalar(2.0**-126)
    miss = Scalar(1) - q
    return a * np.log(max(p, smallest)) + b * np.log(max(q, smallest)) - g * (miss * miss)


def loop_overlaps(one: Any, other: Any, threshold: float) -> bool:
    """Whether the common area is above the threshold's share of the union."""
    common = side(max(one[0], other[0]), min(one[2], other[2])) * side(max(one[1], other[1]), min(one[3], other[3]))
    union = (loop_area(one) + loop_area(other)) - common
    return bool(common > Scalar(threshold) * union)


def loop_area(box: Any) -> Scalar:
    """Width times height, 0 when inverted."""
    return side(box[0], box[2]) * side(box[1], box[3])


def side(low: Scalar, high: Scalar) -> Scalar:
    """Length from low to high, at least 0."""
    return max(high - low, Scalar(0))


def loop_nms(image: Any, attributes: dict[str, Any]) -> list[Row]:
    """Best first: what no kept box removes is kept; a removed box belongs to the first kept box that removes it."""
    kept: list[Row] = []
    for row in loop_candidates(image, attributes):
        owner = next((other for other in kept if removes(other, row, image.iou_threshold, attributes)), None)
        if owner is None:
            kept.append(row)
            if attributes["out_score"] == "key":
                row.score = np.exp(row.key)
        elif attributes["out_score"] == "classification_clustered":
            owner.score = max(owner.score, row.p)
    return [row for row in kept[: attributes["max_detections"]] if row.score >= Scalar(image.score_threshold)]


def removes(kept: Row, row: Row, threshold: float, attributes: dict[str, Any]) -> bool:
    """Whether ``kept`` suppresses ``row``."""
    competes = attributes["class_agnostic"] or kept.label == row.label
    return competes and loop_overlaps(kept.box, row.box, threshold)

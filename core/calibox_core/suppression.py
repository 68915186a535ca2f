"""Reference of the CalibratedNMS operator for one image, in numpy float32.

Every other implementation (the ONNX function, a TensorRT plugin, an accelerated body) is tested against this one. Needs
numpy alone. Letters: A anchors, C classes, K candidates, N detections.
"""

from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import box_area, intersection_area
from calibox_core.ranking import Exponents, check_exponents, log_key


class OutScore(StrEnum):
    """Which score a detection reports."""

    KEY = "key"
    CLASSIFICATION = "classification"
    CLASSIFICATION_CLUSTERED = "classification_clustered"


class Attributes(Protocol):
    """What is fixed in the graph: `calibox_core.nms.NmsAttributes`, or anything with its fields."""

    @property
    def out_score(self) -> str:
        """One of `OutScore`."""

    @property
    def class_agnostic(self) -> bool:
        """Whether boxes compete across classes."""

    @property
    def candidate_floor(self) -> float:
        """Candidates have p above this."""

    @property
    def pre_nms_top_k(self) -> int:
        """K, 1..3840."""

    @property
    def max_detections(self) -> int:
        """N, at least 1."""


class Candidates(NamedTuple):
    """(anchor, class) pairs before suppression, in the order of key, then index."""

    boxes: NDArray[np.float32]  # [K, 4] x1, y1, x2, y2
    labels: NDArray[np.int32]  # [K] 0-based class index
    classification_scores: NDArray[np.float32]  # [K] p
    localization_scores: NDArray[np.float32]  # [K] q
    keys: NDArray[np.float32]  # [K] logarithm of the ranking key, falling
    anchor_class: NDArray[np.int64]  # [K] anchor * C + class


class Detections(NamedTuple):
    """What is kept, in the order of key, then index; no padding."""

    boxes: NDArray[np.float32]  # [N, 4] x1, y1, x2, y2
    labels: NDArray[np.int32]  # [N]
    classification_scores: NDArray[np.float32]  # [N] p of the kept box
    localization_scores: NDArray[np.float32]  # [N] q of the kept box
    scores: NDArray[np.float32]  # [N] as attributes.out_score says
    anchor_class: NDArray[np.int64]  # [N] anchor * C + class


def select_candidates(
    boxes: NDArray[Any], p: NDArray[Any], q: NDArray[Any], exponents: Exponents, attributes: Attributes
) -> Candidates:
    """The best ``pre_nms_top_k`` pairs by key, ties by index.

    A pair is a candidate when its p is above ``candidate_floor`` and box, p and q hold no NaN or infinity.

    Args:
        boxes: float32 ``[A, 4]``.
        p: classification scores, float32 ``[A, C]`` in 0..1.
        q: localization scores, float32 ``[A, 1]`` or ``[A, C]`` in 0..1.
        exponents: of the ranking key.
        attributes: floor and top-k are read.
    """
    boxes, p = np.asarray(boxes, np.float32), np.asarray(p, np.float32)
    q = np.broadcast_to(np.asarray(q, np.float32), p.shape)
    finite = np.isfinite(boxes).all(axis=1, keepdims=True) & np.isfinite(p) & np.isfinite(q)
    index = np.flatnonzero(finite & (p > np.float32(attributes.candidate_floor)))
    keys = log_key(p.flat[index], q.flat[index], check_exponents(exponents))
    order = np.argsort(-keys, kind="stable")[: attributes.pre_nms_top_k]
    index, keys = index[order], keys[order]
    classes = max(1, p.shape[1])
    return Candidates(
        boxes=boxes[index // classes],
        labels=(index % classes).astype(np.int32),
        classification_scores=p.flat[index],
        localization_scores=q.flat[index],
        keys=keys,
        anchor_class=index,
    )


def suppress(candidates: Candidates, iou_threshold: float, *, class_agnostic: bool) -> NDArray[np.int64]:
    """Greedy suppression in the candidates' order.

    The test is ``intersection > iou_threshold * union`` in float32, without a division, so that every implementation
    can do the same arithmetic.

    Returns: int64 ``[K]``, for each candidate the position of the kept candidate that owns it: itself when kept, else
    the first kept candidate whose IoU with it is above the threshold.
    """
    boxes, labels = candidates.boxes, candidates.labels
    area, threshold = box_area(boxes), np.float32(iou_threshold)
    owner = np.full(len(boxes), -1, np.int64)
    for i in range(len(boxes)):
        if owner[i] >= 0:
            continue
        owner[i] = i
        rest = np.flatnonzero(owner[i + 1 :] < 0) + i + 1
        if not class_agnostic:
            rest = rest[labels[rest] == labels[i]]
        common = intersection_area(boxes[i : i + 1], boxes[rest])[0]
        union = (area[i] + area[rest]) - common
        owner[rest[common > threshold * union]] = i
    return owner


def calibrated_nms(
    boxes: NDArray[Any],
    p: NDArray[Any],
    q: NDArray[Any],
    *,
    exponents: Exponents,
    score_threshold: float,
    iou_threshold: float,
    attributes: Attributes,
) -> Detections:
    """The whole operator: select, suppress, cut to ``max_detections``, then drop reported scores below the threshold.

    Args:
        boxes: float32 ``[A, 4]``; p: float32 ``[A, C]``; q: float32 ``[A, 1]`` or ``[A, C]``.
        exponents: (a, b, g) of the ranking key, finite and >= 0.
        score_threshold: a reported score of at least this is returned.
        iou_threshold: overlap above this suppresses.
        attributes: what the graph fixes.

    Raises:
        InvalidParameterError: exponents that are negative or not finite.
    """
    found = select_candidates(boxes, p, q, exponents, attributes)
    owner = suppress(found, iou_threshold, class_agnostic=attributes.class_agnostic)
    return kept_detections(found, owner, score_threshold=score_threshold, attributes=attributes)


def kept_detections(
    found: Candidates, owner: NDArray[np.int64], *, score_threshold: float, attributes: Attributes
) -> Detections:
    """What a suppression leaves: cut to ``max_detections``, then without reported scores below the threshold.

    Args:
        found: in the order of key.
        owner: int64 ``[K]``, from `suppress`.
        score_threshold: a reported score of at least this is returned.
        attributes: limit and reported score are read.
    """
    kept = np.flatnonzero(owner == np.arange(len(owner)))[: attributes.max_detections]
    scores = _reported_scores(found, owner, OutScore(attributes.out_score))[kept]
    above = scores >= np.float32(score_threshold)
    kept, scores = kept[above], scores[above]
    return Detections(
        boxes=found.boxes[kept],
        labels=found.labels[kept],
        classification_scores=found.classification_scores[kept],
        localization_scores=found.localization_scores[kept],
        scores=scores,
        anchor_class=found.anchor_class[kept],
    )


def _reported_scores(found: Candidates, owner: NDArray[np.int64], out_score: OutScore) -> NDArray[np.float32]:
    match out_score:
        case OutScore.KEY:
            keys: NDArray[np.float32] = np.exp(found.keys)
            return keys
        case OutScore.CLASSIFICATION:
            return found.classification_scores
        case OutScore.CLASSIFICATION_CLUSTERED:
            clustered = found.classification_scores.copy()
            np.maximum.at(clustered, owner, found.classification_scores)
            return clustered

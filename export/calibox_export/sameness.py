"""Whether two runtimes give the same answer, wherever the answer is sure.

Two frameworks compute a network with slightly different rounding. Where two keys, or an overlap and its threshold, lie
closer together than that, either order is right: such a place may go either way, and everything else may not. From one
side's candidates alone, `sure_candidates` and `sure_detections` find what the other side must hold and what it may
hold; `compare_rows` holds the other side's rows against that.

Letters: A anchors, C classes, R rows (candidates or detections of one image).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou
from calibox_core.fusion import Exponents
from calibox_core.nms import Candidates, NmsAttributes, OutScore, select_candidates
from calibox_export.errors import ExportError
from calibox_export.level_cut import LevelCut, Mask, passed_anchors


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far apart two runtimes may be."""

    score: float  # classification, localization and reported scores, 0..1
    box: float  # pixels of the input
    tie: float  # keys (relative), an IoU and its threshold
    sliver: float  # pixels by which a side may be longer or shorter; it decides about the IoU of very thin boxes


# Two frameworks computed the network. Measured on a trained detector: scores 5e-7 apart, boxes 1e-4 px.
TWO_FRAMEWORKS = Tolerance(score=1e-4, box=0.01, tie=1e-4, sliver=2e-4)
# One runtime from its own candidates: the same boxes, and only logarithms and exponentials are computed twice.
ONE_RUNTIME = Tolerance(score=1e-5, box=0.01, tie=1e-6, sliver=0.0)
# Candidates that may go on. The overlap of each with each other takes a few gigabytes for so many, which come only from
# a network whose scores are all alike.
MOST_CANDIDATES = 10_000


class Rows(NamedTuple):
    """Candidates or detections of one image in their order, without padding."""

    boxes: NDArray[np.float32]  # [R, 4]
    labels: NDArray[np.int32]  # [R]
    classification_scores: NDArray[np.float32]  # [R]
    localization_scores: NDArray[np.float32]  # [R]
    scores: NDArray[np.float32] | None = None  # [R] reported; candidates report none


class Sure(NamedTuple):
    """What the other side must and may hold, out of this side's candidates."""

    candidates: Candidates  # best first; every one of them may exist on the other side
    must: Mask  # [R] has to be held
    may: Mask  # [R] can be held
    low: NDArray[np.float32]  # [R] reported score, at least
    high: NDArray[np.float32]  # [R] reported score, at most


@dataclass(frozen=True, slots=True)
class Outcome:
    """One comparison, or several added up."""

    compared: int = 0  # rows of the other side that have a partner on this one
    excused: int = 0  # rows of one side alone where either side is right
    different: int = 0  # rows of one side alone, or out of order, where only one side is right
    score_gap: float = 0.0  # largest difference of a score
    box_gap: float = 0.0  # largest difference of a coordinate, in pixels

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(
            compared=self.compared + other.compared,
            excused=self.excused + other.excused,
            different=self.different + other.different,
            score_gap=max(self.score_gap, other.score_gap),
            box_gap=max(self.box_gap, other.box_gap),
        )


def sure_candidates(
    boxes: NDArray[np.float32],
    p: NDArray[np.float32],
    q: NDArray[np.float32],
    *,
    exponents: Exponents,
    attributes: NmsAttributes,
    tolerance: Tolerance,
    cuts: Sequence[LevelCut] = (),
) -> Sure:
    """Candidates that go into the suppression, certainly or possibly.

    Args:
        boxes: float32 ``[A, 4]``, of all anchors, those that a level's cut removes included.
        p: float32 ``[A, C]``.
        q: float32 ``[A, 1]`` or ``[A, C]``.
        exponents: of the ranking key.
        attributes: of the operator.
        tolerance: between the two sides.
        cuts: of the levels that are cut to their best before the selection.

    Raises:
        ExportError: so many keys lie close together that nothing can be said.
    """
    floor = attributes.candidate_floor
    # Every pair that could pass the floor, however many there are.
    wide = attributes.model_copy(
        update={"pre_nms_top_k": max(1, p.size), "candidate_floor": max(0.0, floor - tolerance.score)}
    )
    found = select_candidates(boxes, p, q, exponents, wide)
    passed = passed_anchors(p, q, exponents, cuts, tie=tolerance.tie)
    anchor = found.anchor_class // max(1, p.shape[1])
    found, anchor = take_candidates(found, passed.may[anchor]), anchor[passed.may[anchor]]
    exists = (found.classification_scores > floor + tolerance.score) & passed.must[anchor]
    must = exists & (_count_at_least(found.keys, found.keys - tolerance.tie) <= attributes.pre_nms_top_k)
    may = _count_above(found.keys[exists], found.keys + tolerance.tie) < attributes.pre_nms_top_k
    if may.sum() > MOST_CANDIDATES:
        raise ExportError(
            f"{may.sum()} candidates have keys so close together that rounding decides which "
            f"{attributes.pre_nms_top_k} of them go on, so two answers cannot be compared: is the network trained?"
        )
    found = take_candidates(found, may)
    none = np.zeros(len(found.keys), np.float32)
    return Sure(found, must=must[may], may=np.ones(len(none), bool), low=none, high=none)


def take_candidates(pairs: Candidates, chosen: Mask) -> Candidates:
    """Those that are chosen."""
    return Candidates(
        boxes=pairs.boxes[chosen],
        labels=pairs.labels[chosen],
        classification_scores=pairs.classification_scores[chosen],
        localization_scores=pairs.localization_scores[chosen],
        keys=pairs.keys[chosen],
        anchor_class=pairs.anchor_class[chosen],
    )


def sure_detections(
    candidates: Sure, *, iou_threshold: float, score_threshold: float, attributes: NmsAttributes, tolerance: Tolerance
) -> Sure:
    """What suppression keeps of the candidates, certainly or possibly."""
    found, tie = candidates.candidates, tolerance.tie
    competes = attributes.class_agnostic | (found.labels[:, None] == found.labels[None, :])
    np.fill_diagonal(competes, False)
    least, most = _overlap_range(found.boxes, tolerance)
    may_hit, must_hit = competes & (most > iou_threshold), competes & (least > iou_threshold)
    must, may = candidates.must.copy(), candidates.may.copy()
    for j, key in enumerate(found.keys):
        must[j] &= not (may & may_hit[j] & (found.keys >= key - tie)).any()
        may[j] = not (must & must_hit[j] & (found.keys > key + tie)).any()
    low, high = _reported_range(candidates, may, may_hit, must_hit, attributes.out_score, tie)
    in_must = _count_at_least(found.keys[may], found.keys - tie) <= attributes.max_detections
    in_may = _count_above(found.keys[must], found.keys + tie) < attributes.max_detections
    return Sure(
        found,
        must=must & in_must & (low >= score_threshold + tolerance.score),
        may=may & in_may & (high >= score_threshold - tolerance.score),
        low=low,
        high=high,
    )


def _overlap_range(
    boxes: NDArray[np.float32], tolerance: Tolerance
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Least and largest IoU ``[R, R]`` of every pair."""
    outward = np.array([-1, -1, 1, 1], np.float32) * np.float32(tolerance.sliver)
    shrunk, exact, grown = (pairwise_iou(moved, moved) for moved in (boxes - outward, boxes, boxes + outward))
    return np.minimum(shrunk, exact) - tolerance.tie, np.maximum(grown, exact) + tolerance.tie


def _reported_range(
    candidates: Sure, may_keep: Mask, may_hit: Mask, must_hit: Mask, out_score: OutScore, tie: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Least and largest reported score of each candidate, should it be kept."""
    found = candidates.candidates
    if out_score is OutScore.KEY:
        keys = np.exp(found.keys)
        return keys, keys
    low, high = found.classification_scores.copy(), found.classification_scores.copy()
    if out_score is OutScore.CLASSIFICATION_CLUSTERED:
        for i in np.flatnonzero(may_keep):
            rivals = np.flatnonzero(may_keep & (found.keys >= found.keys[i] - tie))
            contested = may_hit[rivals[rivals != i]].any(axis=0)
            owned = candidates.must & must_hit[i] & ~contested & (found.keys < found.keys[i] - tie)
            perhaps = may_hit[i] & (found.keys <= found.keys[i] + tie)
            low[i] = found.classification_scores[owned].max(initial=low[i])
            high[i] = found.classification_scores[perhaps].max(initial=high[i])
    return low, high


def compare_rows(found: Rows, sure: Sure, expected: NDArray[np.int64], tolerance: Tolerance) -> Outcome:
    """Holds the other side's rows against what is sure.

    Args:
        found: the other side's rows.
        sure: what must and may be there.
        expected: this side's own answer, as pairs anchor * C + class.
        tolerance: between the two sides.
    """
    pairs = sure.candidates
    scores, boxes = _gaps(found, sure)
    fits = (scores <= tolerance.score) & (boxes <= tolerance.box) & sure.may
    held = np.isin(pairs.anchor_class, expected)
    partner = _pair_up(fits, boxes - held)
    paired = partner >= 0
    taken = np.zeros(len(pairs.keys), bool)
    taken[partner[paired]] = True
    rises = np.diff(pairs.keys[partner[paired]]) > tolerance.tie
    # A row without a partner shows how far it is from its nearest, which is what a reader wants to know.
    alone = np.flatnonzero(~paired)
    nearest = (scores + boxes)[alone].argmin(axis=1) if len(pairs.keys) else np.empty(0, np.int64)
    rows = np.concatenate([np.flatnonzero(paired), alone[: len(nearest)]])
    columns = np.concatenate([partner[paired], nearest])
    return Outcome(
        compared=int(paired.sum()),
        excused=int((taken & ~held).sum() + (held & ~taken & ~sure.must).sum()),
        different=int(len(alone) + (sure.must & ~taken).sum() + rises.sum()),
        score_gap=_largest(scores[rows, columns]),
        box_gap=_largest(boxes[rows, columns]),
    )


def _largest(gaps: NDArray[Any]) -> float:
    return float(gaps[np.isfinite(gaps)].max(initial=0))


def _gaps(found: Rows, sure: Sure) -> tuple[NDArray[Any], NDArray[Any]]:
    """Largest difference of a score and of a coordinate for every pair of rows; infinite where the labels differ."""
    pairs = sure.candidates
    scores = np.maximum(
        np.abs(found.classification_scores[:, None] - pairs.classification_scores),
        np.abs(found.localization_scores[:, None] - pairs.localization_scores),
    )
    if found.scores is not None:
        reported = found.scores[:, None]
        scores = np.maximum(scores, np.maximum(sure.low - reported, reported - sure.high))
    boxes = np.abs(found.boxes[:, None] - pairs.boxes).max(axis=2, initial=0)
    other = found.labels[:, None] != pairs.labels
    return np.where(other, np.inf, scores), np.where(other, np.inf, boxes)


def _pair_up(fits: Mask, cost: NDArray[Any]) -> NDArray[np.int64]:
    """For each row the cheapest column that fits it and is still free, else -1."""
    partner = np.full(len(fits), -1, np.int64)
    free = np.ones(fits.shape[1], bool)
    for row in np.flatnonzero(fits.any(axis=1)):
        options = np.flatnonzero(fits[row] & free)
        if len(options):
            partner[row] = options[cost[row, options].argmin()]
            free[partner[row]] = False
    return partner


def _count_at_least(falling: NDArray[Any], limits: NDArray[Any]) -> NDArray[np.int64]:
    """How many of the falling values are at least each limit."""
    return np.searchsorted(-falling, -limits, side="right").astype(np.int64)


def _count_above(falling: NDArray[Any], limits: NDArray[Any]) -> NDArray[np.int64]:
    """How many of the falling values are above each limit."""
    return np.searchsorted(-falling, -limits, side="left").astype(np.int64)

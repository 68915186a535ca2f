"""The same candidates under another ranking: what the operator would return, from scores that were fetched once.

The operator keeps its best candidates by key before it suppresses, and detectors with levels choose per level before
that, so candidates fetched under one ranking need not be all that another would have looked at. Whoever chooses by this
confirms the choice with the detector itself.

Letters: K candidates of an image.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import box_area, intersection_area
from calibox_core.ranking import Exponents, log_key
from calibox_core.suppression import Attributes, Candidates, Detections, kept_detections


class RawCandidates(NamedTuple):
    """What a graph gives before suppression, padding cut off."""

    boxes_K4: NDArray[np.float32]  # x1, y1, x2, y2 in pixels of the input
    labels_K: NDArray[np.int32]  # 0-based class
    p_K: NDArray[np.float32]  # classification scores, 0..1
    q_K: NDArray[np.float32]  # localization scores, 0..1


def overlapping(raw: RawCandidates, iou_threshold: float, *, class_agnostic: bool) -> NDArray[np.bool_]:
    """Which candidates exclude each other, ``[K, K]``: the test of `suppression.suppress`, which no ranking changes."""
    area_K = box_area(raw.boxes_K4)
    out_KK = np.zeros((len(area_K), len(area_K)), np.bool_)
    labels_K = np.zeros_like(raw.labels_K) if class_agnostic else raw.labels_K
    for label in np.unique(labels_K):
        mine = np.flatnonzero(labels_K == label)
        common = intersection_area(raw.boxes_K4[mine], raw.boxes_K4[mine])
        union = (area_K[mine][:, None] + area_K[mine][None, :]) - common
        out_KK[np.ix_(mine, mine)] = common > np.float32(iou_threshold) * union
    return out_KK


def rerank(
    raw: RawCandidates,
    overlapping_KK: NDArray[np.bool_],
    exponents: Exponents,
    attributes: Attributes,
    *,
    score_threshold: float = 0.0,
) -> Detections:
    """The operator on these candidates.

    Args:
        raw: of an image.
        overlapping_KK: from `overlapping`, at the IoU threshold.
        exponents: of the ranking key.
        attributes: what the graph fixes. The operator breaks ties of the key by anchor, then class; anchors are not
            told, so here the class decides, which is the same where no two anchors have the very same scores.
        score_threshold: a reported score of at least this is returned.
    """
    keys_K = log_key(raw.p_K, raw.q_K, exponents)
    able = np.flatnonzero(raw.p_K > np.float32(attributes.candidate_floor))
    order = able[np.lexsort((raw.labels_K[able], -keys_K[able]))][: attributes.pre_nms_top_k]
    owner = _owners(overlapping_KK, order, attributes.max_detections)
    found = Candidates(
        boxes=raw.boxes_K4[order],
        labels=raw.labels_K[order],
        classification_scores=raw.p_K[order],
        localization_scores=raw.q_K[order],
        keys=keys_K[order],
        anchor_class=order,
    )
    return kept_detections(found, owner, score_threshold=score_threshold, attributes=attributes)


def _owners(overlapping_KK: NDArray[np.bool_], order: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """For each place of the order the place that owns it, as `suppression.suppress`.

    Once ``most`` are kept, what is left owns nothing of use: it stays at -1, which is nobody's place.
    """
    place_K = np.empty(len(overlapping_KK), np.int64)
    place_K[order] = np.arange(len(order))
    free_K = np.zeros(len(overlapping_KK), np.bool_)
    free_K[order] = True
    owner = np.full(len(order), -1, np.int64)
    kept = 0
    for place, candidate in enumerate(order):
        if not free_K[candidate]:
            continue
        taken_K = free_K & overlapping_KK[candidate]
        taken_K[candidate] = True
        owner[place_K[taken_K]] = place
        free_K &= ~taken_K
        kept += 1
        if kept == most:
            break
    return owner

"""Large images in tiles: which parts of an image are looked at, and how their detections become one answer. Pure.

The whole image is always one of the views, for the objects that are larger than a tile. Letters: n detections.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import box_area, intersection_area
from calibox_core.nms import NmsAttributes, OutScore
from calibox_core.ranking import Exponents, log_key
from calibox_core.suppression import Candidates, suppress

# A box this near to a border inside the image, as a share of the tile's side, is taken for the part of an object that
# the border cuts: detectors place a side within about a hundredth of what they see.
CUT_MARGIN = 0.01
# A cut box ranks as if it were half as sure, so that the same object seen whole goes before it.
CUT_FACTOR = 0.5
# A cut box goes where a better box covers this much of it: the IoU of a part with its whole says nothing.
COVERED = 0.7


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a request wants its images cut."""

    width: int  # of a tile, in pixels of the upright image
    height: int
    overlap: float  # of neighbours, as a share of the tile, 0..0.9; at least this much


class View(NamedTuple):
    """A part of an image, in pixels; right and bottom are the first column and row outside."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Detections of one or several views."""

    boxes: NDArray[np.float32]  # [n, 4] x1, y1, x2, y2 in pixels of the image
    labels: NDArray[np.int32]  # [n]
    classification_scores: NDArray[np.float32]  # [n] p
    localization_scores: NDArray[np.float32]  # [n] q
    scores: NDArray[np.float32]  # [n] of the graph
    cut: NDArray[np.bool_]  # [n] whether a border inside the image cuts the box


def count_views(width: int, height: int, tiling: Tiling) -> int:
    """How many views an image of ``width`` x ``height`` gets, without making them."""
    tiles = _count(width, tiling.width, tiling.overlap) * _count(height, tiling.height, tiling.overlap)
    return 1 if tiles == 1 else tiles + 1


def views_of(width: int, height: int, tiling: Tiling) -> list[View]:
    """The whole image, then its tiles row by row, spread evenly; the whole alone where it fits into one tile."""
    whole = View(0, 0, width, height)
    columns, rows = _spans(width, tiling.width, tiling.overlap), _spans(height, tiling.height, tiling.overlap)
    tiles = [View(left, top, right, bottom) for top, bottom in rows for left, right in columns]
    return [whole] if len(tiles) == 1 else [whole, *tiles]


def is_cut(boxes: NDArray[np.float32], view: View, whole: View) -> NDArray[np.bool_]:
    """Which boxes ``[n, 4]``, in pixels of the image, end at a border of ``view`` that lies inside ``whole``."""
    x, y = CUT_MARGIN * (view.right - view.left), CUT_MARGIN * (view.bottom - view.top)
    at_border = np.stack(
        [
            (boxes[:, 0] <= view.left + x) & (view.left > whole.left),
            (boxes[:, 1] <= view.top + y) & (view.top > whole.top),
            (boxes[:, 2] >= view.right - x) & (view.right < whole.right),
            (boxes[:, 3] >= view.bottom - y) & (view.bottom < whole.bottom),
        ]
    )
    return np.asarray(at_border.any(axis=0))


def merge(views: Sequence[Seen], *, exponents: Exponents, iou_threshold: float, nms: NmsAttributes) -> Seen:
    """One answer of several views' detections, best ranking first.

    The graph's own rules: candidates in the order of the ranking key, the best ``pre_nms_top_k`` of them, greedy
    suppression by IoU within each class (or across, as the graph does), and the same reported score. The reported score
    rises with the key where it is the key, and calibration is strictly increasing, so that this is suppression on the
    calibrated score too. Boxes that a tile cuts rank lower (`CUT_FACTOR`), and also go where a better box covers
    them (`COVERED`). A part that no view has seen better stays. A single view is the graph's own answer already.
    """
    if len(views) == 1:
        return views[0]
    seen = Seen(*(np.concatenate([getattr(view, name) for view in views]) for name in Seen.__dataclass_fields__))
    key = _keys(seen, exponents, nms)
    rank = key + np.where(seen.cut, np.float32(math.log(CUT_FACTOR)), np.float32(0))
    order = np.argsort(-rank, kind="stable")[: nms.pre_nms_top_k]
    seen, key = _chosen(seen, order), key[order]
    candidates = Candidates(
        seen.boxes, seen.labels, seen.classification_scores, seen.localization_scores, rank[order], order
    )
    owner = suppress(candidates, iou_threshold, class_agnostic=nms.class_agnostic)
    owner = _covered(seen, owner, class_agnostic=nms.class_agnostic)[owner]
    scores = seen.scores.copy()
    if nms.out_score is OutScore.CLASSIFICATION_CLUSTERED:
        np.maximum.at(scores, owner, seen.scores)
    kept = np.flatnonzero(owner == np.arange(len(owner)))
    best_first = kept[np.argsort(-key[kept], kind="stable")]
    merged = _chosen(seen, best_first)
    return Seen(
        merged.boxes,
        merged.labels,
        merged.classification_scores,
        merged.localization_scores,
        scores[best_first],
        merged.cut,
    )


def _keys(seen: Seen, exponents: Exponents, nms: NmsAttributes) -> NDArray[np.float32]:
    """Logarithm of what the graph ranked by; where it reports it, what it reported, since refinement moves q."""
    if nms.out_score is OutScore.KEY:
        return log_key(seen.scores, seen.scores, Exponents(1.0, 0.0, 0.0))
    return log_key(seen.classification_scores, seen.localization_scores, exponents)


def _covered(seen: Seen, owner: NDArray[np.int64], *, class_agnostic: bool) -> NDArray[np.int64]:
    """For each candidate in the order of rank itself, or the best kept box before it that covers it if it is cut."""
    place = np.arange(len(owner))
    kept = np.flatnonzero(owner == place)
    found = place.copy()
    for i in kept[seen.cut[kept]]:
        better = kept[(kept < i) & (found[kept] == kept)]
        if not class_agnostic:
            better = better[seen.labels[better] == seen.labels[i]]
        common = intersection_area(seen.boxes[i : i + 1], seen.boxes[better])[0]
        covering = better[common > COVERED * box_area(seen.boxes[i])]
        found[i] = covering[0] if len(covering) else i
    return found


def _chosen(seen: Seen, rows: NDArray[np.intp]) -> Seen:
    return Seen(*(getattr(seen, name)[rows] for name in Seen.__dataclass_fields__))


def _stride(tile: int, overlap: float) -> int:
    return max(1, math.floor(tile * (1 - overlap)))


def _count(size: int, tile: int, overlap: float) -> int:
    return 1 if size <= tile else -(-(size - tile) // _stride(tile, overlap)) + 1


def _spans(size: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    count = _count(size, tile, overlap)
    starts = [i * (size - tile) // (count - 1) for i in range(count)] if count > 1 else [0]
    return [(start, min(size, start + tile)) for start in starts]

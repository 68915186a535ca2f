"""COCO results as what the measures of core read: one entry per image, best score first.

Letters: N detections of an image, G objects of an image.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou, xywh_to_xyxy
from calibox_core.coco_matching import FoundObjects, ObjectBoxes

MOST_PER_CLASS = 100  # of an image; COCO measures no more


Rows = Sequence[Mapping[str, Any]]  # COCO results


def found_of(
    results: Rows, image_ids: Sequence[int], category_ids: Sequence[int], *, rank_by: str
) -> list[FoundObjects]:
    """Detections of every image in the order of ``image_ids``; arguments are those of `best_rows`."""
    best = best_rows(results, image_ids, category_ids, rank_by=rank_by)
    return [as_found(rows, category_ids, rank_by=rank_by) for rows in best]


def best_rows(
    results: Rows, image_ids: Sequence[int], category_ids: Sequence[int], *, rank_by: str
) -> list[list[Mapping[str, Any]]]:
    """Results of every image in the order of ``image_ids``, best first, the best 100 of each class.

    Args:
        results: COCO results with ``rank_by``. Those of other images or categories are left out.
        image_ids: of the images.
        category_ids: by label.
        rank_by: the score that orders them; equal ones stay in the given order.
    """
    rows: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in image_ids}
    for row in results:
        if row["image_id"] in rows and row["category_id"] in category_ids:
            rows[row["image_id"]].append(row)
    return [_best(own, rank_by) for own in rows.values()]


def as_found(rows: Rows, category_ids: Sequence[int], *, rank_by: str) -> FoundObjects:
    """Results of one image as arrays, in the given order."""
    return FoundObjects(
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        np.array([category_ids.index(row["category_id"]) for row in rows], np.int64),
        np.array([row[rank_by] for row in rows], np.float64),
    )


def _best(rows: Rows, rank_by: str) -> list[Mapping[str, Any]]:
    seen: Counter[int] = Counter()
    kept = []
    for row in sorted(rows, key=lambda row: -row[rank_by]):
        seen[row["category_id"]] += 1
        if seen[row["category_id"]] <= MOST_PER_CLASS:
            kept.append(row)
    return kept


def best_iou(found: FoundObjects, objects: ObjectBoxes) -> NDArray[np.float64]:
    """IoU of each detection with the object of its class that it fits best, ``[N]``, 0 where there is none."""
    same_NG = found.labels_N[:, None] == objects.labels_G[None, :]
    iou_NG = pairwise_iou(xywh_to_xyxy(found.boxes_N4), xywh_to_xyxy(objects.boxes_G4))
    best: NDArray[np.float64] = np.where(same_NG & ~objects.crowd_G[None, :], iou_NG, 0).max(axis=1, initial=0)
    return best

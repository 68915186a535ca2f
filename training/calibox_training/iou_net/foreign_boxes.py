"""Boxes of a detector that is known by its results alone, and how they become training boxes.

They travel through the training transforms with the objects of their images, as objects of the classes C, C + 1, ...,
so that a flip or a crop moves both alike.

Letters: B images, G objects and boxes of an image (padded), N boxes of an image, C classes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibox_core.boxes import clip_boxes, xywh_to_xyxy
from calibox_core.errors import DatasetError
from calibox_core.manifest import ClassInfo
from calibox_training.box_coder import area, batched_intersection
from calibox_training.data.coco import ImageRecord
from calibox_training.iou_net.jitter import JitteredBoxes
from calibox_training.objects import Objects


class ForeignBoxes(NamedTuple):
    """Of one image, best score first."""

    boxes_N4: NDArray[np.float32]  # x1, y1, x2, y2 in pixels of the image
    labels_N: NDArray[np.int64]  # 0-based
    p_N: NDArray[np.float32]  # classification scores, 0..1


def read_results(path: Path, records: Sequence[ImageRecord], classes: Sequence[ClassInfo]) -> list[ForeignBoxes]:
    """A COCO results file as boxes of every image of a split, in the order of ``records``, cut to the images.

    Raises:
        DatasetError: it cannot be read, is no list of results, or names images or categories that are not there.
    """
    try:
        rows = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as COCO results: {error}") from error
    return boxes_of_results(rows, records, classes, source=str(path))


def boxes_of_results(
    rows: Any, records: Sequence[ImageRecord], classes: Sequence[ClassInfo], *, source: str
) -> list[ForeignBoxes]:
    """`read_results` of a document; ``source`` is named in errors."""
    if not isinstance(rows, list):
        raise DatasetError(f"{source} is not a COCO results file: it must be a list of detections")
    label_of = {c.category_id: label for label, c in enumerate(classes)}
    by_image: dict[int, list[tuple[int, Sequence[float], float]]] = {record.image_id: [] for record in records}
    for number, row in enumerate(rows):
        image, label, box, score = _row(row, label_of, where=f"{source}, detection {number}")
        if image not in by_image:
            raise DatasetError(
                f"{source}, detection {number}: no image {image} in this split; are the files of the splits mixed up?"
            )
        by_image[image].append((label, box, score))
    return [_of_image(by_image[record.image_id], record) for record in records]


def _row(row: Any, label_of: Mapping[int, int], *, where: str) -> tuple[int, int, Sequence[float], float]:
    lacking = [
        key for key in ("image_id", "category_id", "bbox", "score") if not isinstance(row, dict) or key not in row
    ]
    if lacking:
        raise DatasetError(f"{where}: it lacks {', '.join(lacking)}")
    if row["category_id"] not in label_of:
        known = ", ".join(map(str, label_of))
        raise DatasetError(f"{where}: no category {row['category_id']} in the data set, whose ids are {known}")
    box, score = row["bbox"], row["score"]
    if not (isinstance(box, list) and len(box) == 4 and np.isfinite(box).all()):
        raise DatasetError(f"{where}: bbox must be four finite numbers x, y, width, height, got {box}")
    if not 0 <= score <= 1:
        raise DatasetError(f"{where}: score must be within 0..1, got {score}")
    return row["image_id"], label_of[row["category_id"]], box, float(score)


def _of_image(found: Sequence[tuple[int, Sequence[float], float]], record: ImageRecord) -> ForeignBoxes:
    p_N = np.array([score for _, _, score in found], np.float32)
    order = np.argsort(-p_N, kind="stable")
    boxes_N4 = xywh_to_xyxy(np.array([box for _, box, _ in found], np.float32).reshape(-1, 4))[order]
    labels_N = np.array([label for label, _, _ in found], np.int64)[order]
    return ForeignBoxes(
        clip_boxes(boxes_N4, width=record.width, height=record.height).astype(np.float32), labels_N, p_N[order]
    )


def with_boxes(record: ImageRecord, found: ForeignBoxes, *, classes: int) -> ImageRecord:
    """The record with the boxes behind its objects, their labels from C on; boxes without area stay out."""
    whole = ((found.boxes_N4[:, 2:] - found.boxes_N4[:, :2]) > 0).all(axis=1)
    count = int(whole.sum())
    return replace(
        record,
        boxes=np.concatenate([record.boxes, found.boxes_N4[whole]]),
        labels=np.concatenate([record.labels, found.labels_N[whole] + classes]),
        crowd=np.concatenate([record.crowd, np.zeros(count, np.bool_)]),
    )


def apart(both: Objects, *, classes: int) -> tuple[Objects, Objects]:
    """Objects, and boxes that came along by `with_boxes` under their own labels; the other's rows are padding."""
    is_box_BG = both.labels_BG >= classes
    return (
        both._replace(labels_BG=both.labels_BG.masked_fill(is_box_BG, -1)),
        both._replace(labels_BG=(both.labels_BG - classes).masked_fill(~is_box_BG, -1)),
    )


def boxes_near_objects(objects: Objects, boxes: Objects, *, least_iou: float) -> JitteredBoxes:
    """The boxes with an IoU of at least ``least_iou`` with an object of their class, and that IoU.

    Args:
        objects, boxes: of a batch, as `apart` gives them.
        least_iou: above 0.
    """
    common_BGG = batched_intersection(objects.boxes_BG4, boxes.boxes_BG4)
    union_BGG = area(objects.boxes_BG4)[:, :, None] + area(boxes.boxes_BG4)[:, None, :] - common_BGG
    iou_BGG = common_BGG / union_BGG.clamp(min=1e-6)
    real_BG = _real(objects)
    same_BGG = (objects.labels_BG[:, :, None] == boxes.labels_BG[:, None, :]) & real_BG[:, :, None]
    # A batch without any object has no row to take the largest of.
    best_BG = torch.nn.functional.pad(iou_BGG * same_BGG, (0, 0, 1, 0)).amax(dim=1)
    image_R, row_R = ((best_BG >= least_iou) & _real(boxes)).nonzero(as_tuple=True)
    return JitteredBoxes(
        boxes.boxes_BG4[image_R, row_R], image_R, boxes.labels_BG[image_R, row_R], best_BG[image_R, row_R].clamp(max=1)
    )


def _real(objects: Objects) -> Tensor:
    return (objects.labels_BG >= 0) & ~objects.crowd_BG & (area(objects.boxes_BG4) > 0)

"""PASCAL VOC's average precision at IoU 0.5: the 11-point form of VOC2007 and the all-point form since VOC2010.

Written from the description in the development kit (VOCevaldet.m, VOCap.m): detections in falling order of score take
the object of their class that they overlap most; at an overlap of at least 0.5 the first to take an object is right,
every later one is wrong, and one whose object is difficult counts for nothing. Boxes are continuous here (1-based
inclusive pixels ``a..b`` span ``a - 1 .. b``), which gives the overlaps of the kit's ``+1`` arithmetic.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import Floats, pairwise_iou, xywh_to_xyxy

MIN_OVERLAP = 0.5  # VOCopts.minoverlap; reaching it is enough
_RECALL_STEPS = 10  # VOC2007 reads precision at recall 0, 0.1, ... 1

ImageTruth = tuple[Floats, NDArray[np.bool_]]  # boxes [G, 4], difficult [G]
Truth = Mapping[int, ImageTruth]


def voc_metrics(annotations: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Mean over classes of both average precisions.

    Args:
        annotations: a COCO document whose annotations carry ``difficult``.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height), ``score``.

    Returns: ``VOC07_AP50`` and ``VOC12_AP50`` in 0..1, over classes that have an object that is not difficult; None
        where no class has one.
    """
    points: list[float] = []
    areas: list[float] = []
    for category in annotations["categories"]:
        own = [a for a in annotations["annotations"] if a["category_id"] == category["id"]]
        found = [d for d in detections if d["category_id"] == category["id"]]
        true, objects = match_detections(_truth(own), found)
        if objects:
            points.append(eleven_point_ap(true, objects))
            areas.append(all_point_ap(true, objects))
    return {
        "VOC07_AP50": float(np.mean(points)) if points else None,
        "VOC12_AP50": float(np.mean(areas)) if areas else None,
    }


def match_detections(truth: Truth, detections: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.bool_], int]:
    """Judges the detections of one class.

    Args:
        truth: image id to boxes ``[G, 4]`` (x1, y1, x2, y2) and difficult flags ``[G]``.
        detections: COCO results of the class.

    Returns: whether each detection that counts is right, by falling score (equal scores in the given order), and
        the number of objects that are not difficult.
    """
    objects = sum(int((~difficult).sum()) for _, difficult in truth.values())
    taken = {image: np.zeros(len(difficult), np.bool_) for image, (_, difficult) in truth.items()}
    judged: list[bool] = []
    order = np.argsort([-float(d["score"]) for d in detections], kind="stable")
    for detection in (detections[i] for i in order):
        image = detection["image_id"]
        best, overlap = _best_object(truth.get(image), detection)
        if overlap < MIN_OVERLAP:
            judged.append(False)
        elif not truth[image][1][best]:
            judged.append(not taken[image][best])
            taken[image][best] = True
    return np.array(judged, np.bool_), objects


def eleven_point_ap(true: NDArray[np.bool_], objects: int) -> float:
    """Mean over recall 0, 0.1, ... 1 of the highest precision at that recall or above (VOC2007)."""
    hits, precision = _curve(true)
    highest = []
    for step in range(_RECALL_STEPS + 1):
        reached = hits * _RECALL_STEPS >= step * objects  # in whole numbers: 3/10 is not below 0.3
        highest.append(precision[reached].max(initial=0.0))
    return float(np.mean(highest))


def all_point_ap(true: NDArray[np.bool_], objects: int) -> float:
    """Area under precision made non-increasing from the right, over recall (since VOC2010)."""
    hits, precision = _curve(true)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    gained = np.diff(hits, prepend=0) / objects
    return float((envelope * gained).sum())


def _curve(true: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Right ones among the first n, and precision, for n = 1, 2, ..."""
    hits = np.cumsum(true, dtype=np.int64)
    return hits, hits / np.arange(1, len(true) + 1)


def _best_object(here: ImageTruth | None, detection: Mapping[str, Any]) -> tuple[int, float]:
    """Index and overlap of the object of the image that is overlapped most, the first of equals."""
    if here is None or len(here[0]) == 0:
        return -1, 0.0
    box = xywh_to_xyxy(np.array([detection["bbox"]], np.float64))
    overlaps = pairwise_iou(box, here[0])[0]
    best = int(overlaps.argmax())
    return best, float(overlaps[best])


def _truth(annotations: Sequence[Mapping[str, Any]]) -> Truth:
    by_image: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in annotations:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    return {
        image: (
            xywh_to_xyxy(np.array([a["bbox"] for a in own], np.float64).reshape(-1, 4)),
            np.array([bool(a["difficult"]) for a in own], np.bool_),
        )
        for image, own in by_image.items()
    }

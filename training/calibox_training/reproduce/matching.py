"""COCO's matching of detections with objects at its ten IoU thresholds, as flags that any resampling can be made of.

Letters: T thresholds, N detections of a class in all images, I images, G objects of an image and class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_training.reproduce.rankings import ImageFound

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # pycocotools' own expression and rounding


@dataclass(frozen=True, slots=True)
class ObjectBoxes:
    """Objects of an image as annotated."""

    boxes_G4: NDArray[np.float64]  # x, y, width, height
    labels_G: NDArray[np.int64]
    crowd_G: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ClassMatches:
    """One class, best score first; equal scores in the order of images."""

    image_N: NDArray[np.int64]  # position of the image
    hit_TN: NDArray[np.bool_]  # matched with an object
    counts_TN: NDArray[np.bool_]  # a hit or a false alarm; False where a crowd region excuses it
    objects_I: NDArray[np.int64]  # objects that can be found


def match_split(found: Sequence[ImageFound], objects: Sequence[ObjectBoxes], classes: int) -> list[ClassMatches]:
    """Matches of every class over all images, as pycocotools makes them with every area and 100 detections."""
    return [_match_class(found, objects, label) for label in range(classes)]


def _match_class(found: Sequence[ImageFound], objects: Sequence[ObjectBoxes], label: int) -> ClassMatches:
    scores, images, hits, counted, there = [], [], [], [], []
    for position, (own, truth) in enumerate(zip(found, objects, strict=True)):
        mine, wanted = own.labels_N == label, truth.labels_G == label
        crowd = truth.crowd_G[wanted]
        hit, counts = match_image(own.boxes_N4[mine], truth.boxes_G4[wanted], crowd)
        scores.append(own.scores_N[mine])
        images.append(np.full(int(mine.sum()), position))
        hits.append(hit)
        counted.append(counts)
        there.append(int((~crowd).sum()))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return ClassMatches(
        image_N=np.concatenate(images)[order],
        hit_TN=np.concatenate(hits, axis=1)[:, order],
        counts_TN=np.concatenate(counted, axis=1)[:, order],
        objects_I=np.array(there, np.int64),
    )


def match_image(
    boxes_N4: NDArray[np.float64], objects_G4: NDArray[np.float64], crowd_G: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Greedy matching of one image and class, best score first.

    A detection takes the free object of the largest IoU (the last of equals) that reaches the threshold; failing
    that, any crowd region that does, which excuses it.

    Returns: bool ``[T, N]`` twice: hits, and what counts as hit or false alarm.
    """
    hit_TN = np.zeros((len(THRESHOLDS), len(boxes_N4)), np.bool_)
    counts_TN = np.ones_like(hit_TN)
    iou_NG = _iou(boxes_N4, objects_G4, crowd_G)
    free_TG = np.repeat(~crowd_G[None, :], len(THRESHOLDS), axis=0)
    limits_T1 = np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]  # as pycocotools
    # What overlaps nothing by half matches at no threshold.
    for n in np.flatnonzero(iou_NG.max(axis=1, initial=0) >= limits_T1[0, 0]):
        fits_TG = iou_NG[n] >= limits_T1
        open_TG = fits_TG & free_TG
        hit_T = open_TG.any(axis=1)
        last = iou_NG.shape[1] - 1
        best_T = last - np.where(open_TG, iou_NG[n], -1)[:, ::-1].argmax(axis=1)
        free_TG[hit_T, best_T[hit_T]] = False
        hit_TN[:, n] = hit_T
        counts_TN[:, n] = hit_T | ~(fits_TG & crowd_G).any(axis=1)
    return hit_TN, counts_TN


def _iou(
    boxes_N4: NDArray[np.float64], objects_G4: NDArray[np.float64], crowd_G: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Pycocotools' own IoU; with a crowd region, the share of the detection that lies in it."""
    from pycocotools import mask

    if not len(boxes_N4) or not len(objects_G4):
        return np.zeros((len(boxes_N4), len(objects_G4)))
    iou: NDArray[np.float64] = mask.iou(boxes_N4, objects_G4, crowd_G.astype(np.uint8))
    return iou


def annotated_objects(annotations: Mapping[str, Any], category_ids: Sequence[int]) -> list[ObjectBoxes]:
    """Objects of every image in the order of their ids, as annotated: clipped boxes would move an IoU.

    Args:
        annotations: a COCO document.
        category_ids: by label.
    """
    labels = {category: label for label, category in enumerate(category_ids)}
    own: dict[int, list[Mapping[str, Any]]] = {image["id"]: [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        own[annotation["image_id"]].append(annotation)
    return [
        ObjectBoxes(
            boxes_G4=np.array([a["bbox"] for a in rows], np.float64).reshape(-1, 4),
            labels_G=np.array([labels[a["category_id"]] for a in rows], np.int64),
            crowd_G=np.array([bool(a.get("iscrowd", 0)) for a in rows], np.bool_),
        )
        for _, rows in sorted(own.items())
    ]

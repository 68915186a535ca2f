"""COCO's matching of detections with objects, as flags that AP of any resampling and other measures are made of.

Letters: T thresholds, N detections of a class in all images, I images, G objects of an image and class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # pycocotools' own expression and rounding


class Found(Protocol):
    """Detections of an image, best score first."""

    @property
    def boxes_N4(self) -> NDArray[np.float64]:
        """x, y, width, height in pixels of the image."""

    @property
    def labels_N(self) -> NDArray[np.int64]:
        """0-based class."""

    @property
    def scores_N(self) -> NDArray[np.float64]:
        """0..1, falling."""


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """The least that is a `Found`."""

    boxes_N4: NDArray[np.float64]
    labels_N: NDArray[np.int64]
    scores_N: NDArray[np.float64]


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
    scores_N: NDArray[np.float64]
    iou_TN: NDArray[np.float32]  # with the object that it is matched with; 0 where there is none


class ImageMatches(NamedTuple):
    """Flags of one image and class."""

    hit_TN: NDArray[np.bool_]
    counts_TN: NDArray[np.bool_]
    iou_TN: NDArray[np.float32]


def match_split(
    found: Sequence[Found],
    objects: Sequence[ObjectBoxes],
    classes: int,
    thresholds_T: NDArray[np.float64] = THRESHOLDS,
) -> list[ClassMatches]:
    """Matches of every class over all images, as pycocotools makes them with every area and 100 detections."""
    there_CI = np.zeros((classes, len(objects)), np.int64)
    parts: list[list[_Part]] = [[] for _ in range(classes)]
    for position, (own, truth) in enumerate(zip(found, objects, strict=True)):
        there_CI[:, position] = np.bincount(truth.labels_G[~truth.crowd_G], minlength=classes)
        for label in np.unique(own.labels_N):
            mine, wanted = own.labels_N == label, truth.labels_G == label
            matched = match_image(own.boxes_N4[mine], truth.boxes_G4[wanted], truth.crowd_G[wanted], thresholds_T)
            parts[label].append(_Part(position, own.scores_N[mine], matched))
    return [_joined(own, there_I, len(thresholds_T)) for own, there_I in zip(parts, there_CI, strict=True)]


class _Part(NamedTuple):
    """Detections of one image and class."""

    position: int
    scores_N: NDArray[np.float64]
    matched: ImageMatches


def _joined(parts: Sequence[_Part], there_I: NDArray[np.int64], thresholds: int) -> ClassMatches:
    """All images of a class, best score first."""
    scores_N = np.concatenate([np.empty(0), *(part.scores_N for part in parts)])
    images = [np.full(len(part.scores_N), part.position) for part in parts]
    order = np.argsort(-scores_N, kind="stable")

    def joined_TN(field: str, kind: type[np.generic]) -> NDArray[Any]:
        own = [getattr(part.matched, field) for part in parts]
        return np.concatenate([np.empty((thresholds, 0), kind), *own], axis=1)[:, order]

    return ClassMatches(
        image_N=np.concatenate([np.empty(0, np.int64), *images])[order],
        hit_TN=joined_TN("hit_TN", np.bool_),
        counts_TN=joined_TN("counts_TN", np.bool_),
        objects_I=there_I,
        scores_N=scores_N[order],
        iou_TN=joined_TN("iou_TN", np.float32),
    )


def match_image(
    boxes_N4: NDArray[np.float64],
    objects_G4: NDArray[np.float64],
    crowd_G: NDArray[np.bool_],
    thresholds_T: NDArray[np.float64] = THRESHOLDS,
) -> ImageMatches:
    """Greedy matching of one image and class, best score first.

    A detection takes the free object of the largest IoU (the last of equals) that reaches the threshold; failing
    that, any crowd region that does, which excuses it.

    Returns: hits, what counts as hit or false alarm, and the IoU with what is taken, at every threshold; these rise.
    """
    hit_TN = np.zeros((len(thresholds_T), len(boxes_N4)), np.bool_)
    counts_TN = np.ones_like(hit_TN)
    iou_TN = np.zeros(hit_TN.shape, np.float32)
    iou_NG = _iou(boxes_N4, objects_G4, crowd_G)
    free_TG = np.repeat(~crowd_G[None, :], len(thresholds_T), axis=0)
    limits_T1 = np.minimum(thresholds_T, 1 - 1e-10)[:, None]  # as pycocotools
    # What overlaps nothing by as much as the least threshold matches nowhere.
    for n in np.flatnonzero(iou_NG.max(axis=1, initial=-1) >= limits_T1[0, 0]):
        fits_TG = iou_NG[n] >= limits_T1
        open_TG = fits_TG & free_TG
        hit_T = open_TG.any(axis=1)
        last = iou_NG.shape[1] - 1
        best_T = last - np.where(open_TG, iou_NG[n], -1)[:, ::-1].argmax(axis=1)
        free_TG[hit_T, best_T[hit_T]] = False
        hit_TN[:, n] = hit_T
        counts_TN[:, n] = hit_T | ~(fits_TG & crowd_G).any(axis=1)
        iou_TN[:, n] = np.where(hit_T, iou_NG[n, best_T], 0)
    return ImageMatches(hit_TN, counts_TN, iou_TN)


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

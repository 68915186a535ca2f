"""The numbers behind the paper's figures 2, 3, 4 and 7, from stored outputs. Source: arXiv 1807.11590.

Letters: N boxes of an image, S steps and the start, T thresholds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.coco_metrics import CORRELATION_MIN_IOU, Metrics
from calibox_core.manifest import ClassInfo
from calibox_training.iou_net.analysis import (
    FoundBoxes,
    TrueBoxes,
    kept_by_nms,
    metrics_over_steps,
    positives_by_iou,
    recall_over_iou,
)
from calibox_training.iou_net.soft_nms import SoftNms, soft_nms
from calibox_training.reproduce.results import BASE, METRICS
from calibox_training.reproduce_iou_net.nms_methods import NMS_IOU
from calibox_training.reproduce_iou_net.pipelines import candidate_iou, ranked_by, truth_of
from calibox_training.reproduce_iou_net.raw import Moved, RawImage
from calibox_training.reproduce_iou_net.results import AtSteps, Confidence, Counts

IOU_EDGES = np.linspace(0.5, 1, 26)
SCORE_EDGES = np.linspace(0, 1, 21)
POSITIVE_EDGES = np.linspace(0.5, 1, 11)  # of figure 3
RECALL_THRESHOLDS = np.linspace(0.5, 1, 11)
NONE = "none"  # no suppression: what none can exceed
ImageBoxes = Iterator[tuple[FoundBoxes, TrueBoxes]]


def confidence(images: Sequence[RawImage]) -> Confidence:
    """Figure 2: candidates with an IoU above 0.5 by IoU and score."""
    empty = np.empty((3, 0), np.float32)
    pairs = np.concatenate(
        [empty, *(np.stack([candidate_iou(one), one.scored.p_K, one.scored.q_K]) for one in images)], axis=1
    )
    iou, p, q = pairs[:, pairs[0] > CORRELATION_MIN_IOU]
    return Confidence(
        iou_edges=rounded(IOU_EDGES),
        score_edges=rounded(SCORE_EDGES),
        classification=_counts(iou, p),
        localization=_counts(iou, q),
    )


def _counts(iou: NDArray[np.float32], score: NDArray[np.float32]) -> Counts:
    counts = np.histogram2d(iou, score, (IOU_EDGES, SCORE_EDGES))[0].astype(int)
    return tuple(tuple(int(value) for value in row) for row in counts)


def _by_p(image: RawImage) -> FoundBoxes:
    return ranked_by(image, image.scored.p_K)


def _standard(image: RawImage) -> FoundBoxes:
    return kept_by_nms(_by_p(image), iou_threshold=NMS_IOU)


def _guided(image: RawImage) -> FoundBoxes:
    return kept_by_nms(ranked_by(image, image.scored.q_K), iou_threshold=NMS_IOU)


def _soft(image: RawImage) -> FoundBoxes:
    """Suppressed as the detector sees the boxes: in letterboxed pixels."""
    found, scored = _by_p(image), image.scored
    index, scores = soft_nms(scored.boxes_K4, scored.label_K, scored.p_K, SoftNms())
    return FoundBoxes(found.boxes_N4[index], found.labels_N[index], scores)


SUPPRESSIONS: Mapping[str, Callable[[RawImage], FoundBoxes]] = {
    BASE: _standard,
    "soft": _soft,
    "guided": _guided,
    NONE: _by_p,
}


def _pairs(images: Sequence[RawImage], name: str) -> ImageBoxes:
    return ((SUPPRESSIONS[name](image), truth_of(image)) for image in images)


def positives(images: Sequence[RawImage]) -> dict[str, tuple[int, ...]]:
    """Figure 3: objects whose positive box has an IoU in each bin of `POSITIVE_EDGES`, by suppression."""
    found = {
        name: positives_by_iou(_pairs(images, name), POSITIVE_EDGES, upper_bound=name == NONE)
        for name in (BASE, "guided", NONE)
    }
    return {name: tuple(int(count) for count in counts) for name, counts in found.items()}


def recalls(images: Sequence[RawImage]) -> dict[str, tuple[float, ...]]:
    """Figure 7: share of objects found at each of `RECALL_THRESHOLDS`, by suppression; nothing is cut to a hundred."""
    return {name: rounded(recall_over_iou(_pairs(images, name), RECALL_THRESHOLDS)) for name in SUPPRESSIONS}


def over_steps(
    annotations: Mapping[str, Any],
    images: Sequence[RawImage],
    classes: Sequence[ClassInfo],
    boxes_of: Callable[[Moved], NDArray[np.float32]],
) -> AtSteps:
    """Figure 4: metrics after every step, from what standard NMS left.

    Args:
        annotations: a COCO document.
        images: of the split.
        classes: by label.
        boxes_of: boxes ``[N, S, 4]`` in letterboxed pixels.
    """
    rows = [row for image in images for row in _rows(image, classes)]
    boxes = [image.letterbox.to_image(boxes_of(image.standard)).transpose(1, 0, 2) for image in images]
    found = metrics_over_steps(annotations, rows, np.concatenate(boxes, axis=1))
    return tuple(_kept(metrics) for metrics in found)


def _rows(image: RawImage, classes: Sequence[ClassInfo]) -> Iterator[dict[str, Any]]:
    left = image.standard.left
    for label, score in zip(image.scored.label_K[left.index_N], left.score_N, strict=True):
        category = classes[label].category_id
        yield {"image_id": image.record.image_id, "category_id": category, "score": float(score)}


def _kept(metrics: Metrics) -> Metrics:
    return {name: None if (value := metrics[name]) is None else round(value, 6) for name in METRICS}


def rounded(values: NDArray[np.floating[Any]]) -> tuple[float, ...]:
    """Six digits."""
    return tuple(round(float(value), 6) for value in values)

"""IoU-Net's own analyses, over arrays that an evaluation saved.

Source: IoU-Net, arXiv 1807.11590: fig. 3 (what NMS keeps), fig. 7 (recall over IoU) and fig. 4 (AP over steps).

Letters: N boxes of an image, G objects of an image, E edges of IoU bins, T thresholds, S steps, M detections.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou, xyxy_to_xywh
from calibox_core.coco_metrics import Metrics, coco_metrics, load_ground_truth
from calibox_core.nms import Candidates, suppress

# From which IoU on a box can be matched with an object; the figures begin here.
MATCH_IOU = 0.5


class FoundBoxes(NamedTuple):
    """Boxes of one image before or after an NMS."""

    boxes_N4: NDArray[np.floating[Any]]  # x1, y1, x2, y2
    labels_N: NDArray[np.integer[Any]]
    rank_N: NDArray[np.floating[Any]]  # what the NMS ranks by: classification score, or predicted IoU


class TrueBoxes(NamedTuple):
    """Objects of one image, without crowd regions."""

    boxes_G4: NDArray[np.floating[Any]]
    labels_G: NDArray[np.integer[Any]]


def kept_by_nms(found: FoundBoxes, *, iou_threshold: float) -> FoundBoxes:
    """Greedy NMS within classes: the standard one by classification scores, IoU-guided by predicted IoU."""
    order = np.argsort(-found.rank_N, kind="stable")
    boxes, labels, rank = (values[order] for values in found)
    ranked = Candidates(
        boxes=boxes.astype(np.float32),
        labels=labels.astype(np.int32),
        classification_scores=rank.astype(np.float32),
        localization_scores=rank.astype(np.float32),
        keys=rank.astype(np.float32),
        anchor_class=order,
    )
    owner = suppress(ranked, iou_threshold, class_agnostic=False)
    kept = owner == np.arange(len(owner))
    return FoundBoxes(boxes[kept], labels[kept], rank[kept])


def positives_by_iou(
    images: Iterable[tuple[FoundBoxes, TrueBoxes]], edges_E: NDArray[np.floating[Any]], *, upper_bound: bool = False
) -> NDArray[np.int64]:
    """How many objects have their positive box in each bin of IoU, ``[E - 1]``; the last bin holds its upper edge.

    A box belongs to the object of its class that it overlaps most, if by `MATCH_IOU` at least. Of the boxes of an
    object the one that ranks highest is positive.

    Args:
        images: boxes that an NMS left, or all of them.
        edges_E: increasing.
        upper_bound: the box of the largest IoU is positive instead: what no NMS can exceed, for boxes before any.
    """
    counts = np.zeros(len(edges_E) - 1, np.int64)
    for found, truth in images:
        iou_NG = _class_iou(found, truth)
        iou_N = iou_NG.max(axis=1, initial=0)
        rank_N = iou_N if upper_bound else found.rank_N
        order = np.argsort(-rank_N, kind="stable")
        order = order[iou_N[order] >= MATCH_IOU]
        # The first box of each object in the order of rank.
        _, first = np.unique(iou_NG[order].argmax(axis=1) if len(order) else order, return_index=True)
        counts += np.histogram(iou_N[order[first]], edges_E)[0]
    return counts


def recall_over_iou(
    images: Iterable[tuple[FoundBoxes, TrueBoxes]], thresholds_T: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Share ``[T]`` of the objects that a box of their class overlaps by a threshold at least; NaN without objects."""
    best = [np.empty(0), *(_class_iou(found, truth).max(axis=0, initial=0) for found, truth in images)]
    best_M = np.concatenate(best)
    if not len(best_M):
        return np.full(len(thresholds_T), np.nan)
    recall: NDArray[np.float64] = (best_M[:, None] >= thresholds_T).mean(axis=0)
    return recall


def metrics_over_steps(
    annotations: Mapping[str, Any], detections: Sequence[Mapping[str, Any]], boxes_SM4: NDArray[np.floating[Any]]
) -> list[Metrics]:
    """COCO metrics after every step of a refinement, the scores as they were.

    Args:
        annotations: a COCO document.
        detections: COCO results of M boxes; their ``bbox`` is replaced.
        boxes_SM4: the same boxes after 0, 1, ... steps, x1, y1, x2, y2 in pixels of their images.
    """
    truth = load_ground_truth(annotations)
    return [
        coco_metrics(
            truth, [{**row, "bbox": box.tolist()} for row, box in zip(detections, xyxy_to_xywh(boxes), strict=True)]
        )[0]
        for boxes in boxes_SM4
    ]


def _class_iou(found: FoundBoxes, truth: TrueBoxes) -> NDArray[np.float64]:
    """IoU ``[N, G]``, 0 between different classes."""
    iou_NG = pairwise_iou(np.asarray(found.boxes_N4, np.float64), np.asarray(truth.boxes_G4, np.float64))
    same: NDArray[np.float64] = np.where(found.labels_N[:, None] == truth.labels_G[None, :], iou_NG, 0.0)
    return same

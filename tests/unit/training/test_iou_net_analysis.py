"""IoU-Net's analyses and Soft-NMS against plain loops and hand-worked cases."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibox_core.boxes import xyxy_to_xywh
from calibox_training.iou_net.analysis import (
    FoundBoxes,
    TrueBoxes,
    kept_by_nms,
    metrics_over_steps,
    positives_by_iou,
    recall_over_iou,
)
from calibox_training.iou_net.soft_nms import SoftNms, soft_nms

EDGES = np.array([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])


def loop_iou(one: Any, other: Any) -> float:
    """IoU of two boxes with area."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - width * height
    return float(width * height / union)


def random_image(seed: int, boxes: int = 60) -> tuple[FoundBoxes, TrueBoxes]:
    """Boxes around three objects of two classes, some far from any; scores on a coarse grid, so that some are equal."""
    rng = np.random.default_rng(seed)
    objects = np.array([[10.0, 10, 50, 60], [14, 12, 55, 58], [100, 80, 140, 130]])
    near = objects[rng.integers(0, 3, boxes)] + rng.normal(0, 6, (boxes, 4))
    labels = rng.integers(0, 2, boxes)
    return FoundBoxes(near, labels, rng.integers(0, 20, boxes) / 20), TrueBoxes(objects, np.array([0, 1, 1]))


def loop_nms(found: FoundBoxes, threshold: float) -> list[int]:
    """Positions kept, best first."""
    order = sorted(range(len(found.rank_N)), key=lambda i: (-found.rank_N[i], i))
    kept: list[int] = []
    for i in order:
        rivals = [k for k in kept if found.labels_N[k] == found.labels_N[i]]
        if all(loop_iou(found.boxes_N4[k], found.boxes_N4[i]) <= threshold for k in rivals):
            kept.append(i)
    return kept


def loop_positives(found: FoundBoxes, truth: TrueBoxes, *, upper_bound: bool) -> list[float]:
    """The IoUs of the positive boxes, object by object."""
    positives = []
    for g in range(len(truth.labels_G)):
        best: tuple[float, float] | None = None
        for box, label, rank in zip(*found, strict=True):
            overlaps = [
                loop_iou(box, truth.boxes_G4[k]) if label == truth.labels_G[k] else 0.0
                for k in range(len(truth.labels_G))
            ]
            if overlaps[g] < 0.5 or overlaps.index(max(overlaps)) != g:
                continue
            key = overlaps[g] if upper_bound else rank
            if best is None or key > best[0]:
                best = (key, overlaps[g])
        if best is not None:
            positives.append(best[1])
    return positives


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nms_equals_a_plain_loop(seed: int) -> None:
    found, _ = random_image(seed)
    kept = kept_by_nms(found, iou_threshold=0.5)
    wanted = loop_nms(found, 0.5)
    np.testing.assert_array_equal(kept.boxes_N4, found.boxes_N4[wanted])
    assert 3 < len(wanted) < 40


@pytest.mark.parametrize("upper_bound", [False, True])
def test_positives_equal_a_plain_loop(upper_bound: bool) -> None:
    images = [random_image(seed) for seed in range(5)]
    wanted = np.histogram(
        [iou for found, truth in images for iou in loop_positives(found, truth, upper_bound=upper_bound)], EDGES
    )[0]
    np.testing.assert_array_equal(positives_by_iou(images, EDGES, upper_bound=upper_bound), wanted)
    assert wanted.sum() > 10


def test_figure_3_by_hand() -> None:
    """One object 0..10; boxes of IoU 1, 0.8 and 0.5 whose class scores rise as the predicted IoU falls."""
    truth = TrueBoxes(np.array([[0.0, 0, 10, 10]]), np.array([0]))
    boxes, labels = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5]]), np.zeros(3, int)
    by_class = FoundBoxes(boxes, labels, np.array([0.5, 0.6, 0.9]))
    by_iou = FoundBoxes(boxes, labels, np.array([0.95, 0.8, 0.6]))
    standard = kept_by_nms(by_class, iou_threshold=0.45)  # the box of 0.5 removes both others
    guided = kept_by_nms(by_iou, iou_threshold=0.45)
    assert positives_by_iou([(standard, truth)], EDGES).tolist() == [1, 0, 0, 0, 0]
    assert positives_by_iou([(guided, truth)], EDGES).tolist() == [0, 0, 0, 0, 1]
    assert positives_by_iou([(by_class, truth)], EDGES).tolist() == [1, 0, 0, 0, 0]
    assert positives_by_iou([(by_class, truth)], EDGES, upper_bound=True).tolist() == [0, 0, 0, 0, 1]


def test_recall_by_hand() -> None:
    """Best IoUs 0.8 (of its class; a box of another class fits exactly) and 0: an object that nothing overlaps."""
    truth = TrueBoxes(np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), np.array([0, 0]))
    found = FoundBoxes(np.array([[0.0, 0, 10, 8], [0, 0, 10, 10]]), np.array([0, 1]), np.array([0.5, 0.9]))
    recall = recall_over_iou([(found, truth)], np.array([0.5, 0.8, 0.81]))
    assert recall.tolist() == [0.5, 0.5, 0.0]


def test_nothing_found_and_nothing_there() -> None:
    no_boxes = FoundBoxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    no_objects = TrueBoxes(np.zeros((0, 4)), np.zeros(0, int))
    found, truth = random_image(0)
    assert len(kept_by_nms(no_boxes, iou_threshold=0.5).boxes_N4) == 0
    for image in ((no_boxes, truth), (found, no_objects), (no_boxes, no_objects)):
        assert positives_by_iou([image], EDGES).sum() == 0
    assert recall_over_iou([(no_boxes, truth)], np.array([0.5])).tolist() == [0.0]
    assert math.isnan(recall_over_iou([(found, no_objects)], np.array([0.5]))[0])


def loop_soft_nms(found: FoundBoxes, how: SoftNms) -> list[tuple[int, float]]:
    """Figure 2 of Soft-NMS over scalars."""
    left = {i: float(score) for i, score in enumerate(found.rank_N) if score > how.score_floor}
    picked = []
    while left:
        best = min(left, key=lambda i: (-left[i], i))
        picked.append((best, left.pop(best)))
        for i in list(left):
            if found.labels_N[i] != found.labels_N[best]:
                continue
            iou = loop_iou(found.boxes_N4[best], found.boxes_N4[i])
            if how.decay == "gaussian":
                left[i] *= math.exp(-(iou**2) / how.sigma)
            elif iou > how.iou_threshold:
                left[i] *= 1 - iou
            if left[i] <= how.score_floor:
                del left[i]
    return picked


@pytest.mark.parametrize("how", [SoftNms("linear"), SoftNms("gaussian"), SoftNms("linear", score_floor=0.2)])
def test_soft_nms_equals_a_plain_loop(how: SoftNms) -> None:
    found, _ = random_image(7)
    order, scores = soft_nms(found.boxes_N4, found.labels_N, found.rank_N, how)
    wanted = loop_soft_nms(found, how)
    assert order.tolist() == [i for i, _ in wanted]
    np.testing.assert_allclose(scores, [score for _, score in wanted], rtol=1e-9)
    assert (np.diff(scores) <= 1e-12).all()


def test_soft_nms_by_hand() -> None:
    # IoU 0.8 of the two boxes: 0.6 * (1 - 0.8) = 0.12, and 0.6 * exp(-0.64 / 0.5) = 0.1668.
    boxes, labels, scores = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8]]), np.zeros(2, int), np.array([0.9, 0.6])
    assert soft_nms(boxes, labels, scores, SoftNms("linear"))[1] == pytest.approx([0.9, 0.12])
    assert soft_nms(boxes, labels, scores, SoftNms("gaussian"))[1] == pytest.approx([0.9, 0.166822], abs=1e-6)
    assert soft_nms(boxes, np.array([0, 1]), scores, SoftNms("linear"))[1] == pytest.approx([0.9, 0.6])
    assert soft_nms(boxes[:0], labels[:0], scores[:0], SoftNms())[0].shape == (0,)


def test_average_precision_after_every_step() -> None:
    """Two objects whose boxes come nearer: IoU 0.6, then 0.8, then 1."""
    objects = np.array([[10.0, 10, 50, 50], [60, 10, 100, 50]])

    def shrunk(share: float) -> NDArray[np.float64]:
        boxes = objects.copy()
        boxes[:, 3] = boxes[:, 1] + share * 40
        return boxes

    annotations = {
        "images": [{"id": 1, "width": 128, "height": 96}],
        "categories": [{"id": 5, "name": "red"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 5, "bbox": box.tolist()}
            for i, box in enumerate(xyxy_to_xywh(objects))
        ],
    }
    detections = [{"image_id": 1, "category_id": 5, "bbox": [0, 0, 1, 1], "score": score} for score in (0.9, 0.8)]
    steps = metrics_over_steps(annotations, detections, np.stack([shrunk(share) for share in (0.62, 0.82, 1.0)]))
    # Of the thresholds 0.5, 0.55, ..., 0.95 the boxes pass 3, 7 and 10.
    assert [step["AP"] for step in steps] == pytest.approx([0.3, 0.7, 1.0], abs=1e-6)
    assert [step["AP90"] for step in steps] == pytest.approx([0, 0, 1], abs=1e-6)

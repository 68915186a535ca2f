"""VOC's and KITTI's metrics against plain loops."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.kitti_metrics import LIMITS, kitti_metrics
from calibox_core.voc_metrics import voc_metrics
from tests.support.plain_metrics import Box, KittiCar, kitti_precision, voc_ap

# Few images and few places, so that overlaps, duplicates and ties of scores are common.
IMAGES = st.integers(1, 3)
SCORES = st.integers(1, 12).map(lambda n: n / 12)


@st.composite
def boxes(draw: st.DrawFn, sides: tuple[int, int], steps: int) -> Box:
    x, y = draw(st.integers(0, steps)) * 5, draw(st.integers(0, steps)) * 5
    return (x, y, x + draw(st.integers(*sides)), y + draw(st.integers(*sides)))


def _xywh(box: Box) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


VOC_BOXES = boxes((6, 14), 2)


@given(
    objects=st.lists(st.tuples(IMAGES, VOC_BOXES, st.booleans()), max_size=8),
    detections=st.lists(st.tuples(IMAGES, VOC_BOXES, SCORES), max_size=12),
)
def test_voc_is_the_plain_loop(objects: list[tuple[int, Box, bool]], detections: list[tuple[int, Box, float]]) -> None:
    truth: dict[int, list[tuple[Box, bool]]] = {}
    for image, box, difficult in objects:
        truth.setdefault(image, []).append((box, difficult))
    annotations: dict[str, Any] = {
        "categories": [{"id": 1}],
        "annotations": [
            {"image_id": image, "category_id": 1, "bbox": _xywh(box), "difficult": int(difficult)}
            for image, box, difficult in objects
        ],
    }
    rows = [{"image_id": i, "category_id": 1, "bbox": _xywh(box), "score": score} for i, box, score in detections]
    expected = voc_ap(truth, detections)
    metrics = voc_metrics(annotations, rows)
    if expected is None:
        assert metrics == {"VOC07_AP50": None, "VOC12_AP50": None}
    else:
        assert (metrics["VOC07_AP50"], metrics["VOC12_AP50"]) == pytest.approx(expected)


KITTI_BOXES = boxes((22, 48), 2)
KITTI_OBJECTS = st.tuples(
    st.sampled_from(["Car", "Car", "Car", "Van", "DontCare"]),
    KITTI_BOXES,
    st.sampled_from([0.0, 0.15, 0.2, 0.4, 0.6]),
    st.integers(0, 3),
)


@given(
    objects=st.lists(st.tuples(IMAGES, KITTI_OBJECTS), max_size=12),
    found=st.lists(st.tuples(IMAGES, KITTI_BOXES, SCORES), max_size=14),
)
def test_kitti_is_the_plain_loop(
    objects: list[tuple[int, tuple[str, Box, float, int]]], found: list[tuple[int, Box, float]]
) -> None:
    annotations: dict[str, Any] = {
        "images": [{"id": n} for n in (1, 2, 3)],
        "annotations": [
            {"image_id": i, "bbox": _xywh(box), "kitti_type": kind, "truncated": truncated, "occluded": occluded}
            for i, (kind, box, truncated, occluded) in objects
        ],
    }
    rows = [{"image_id": i, "bbox": _xywh(box), "score": score} for i, box, score in found]
    frames = [
        ([KittiCar(*item) for i, item in objects if i == n], [(box, score) for i, box, score in found if i == n])
        for n in (1, 2, 3)
    ]
    metrics = kitti_metrics(annotations, rows)
    for difficulty, limits in LIMITS.items():
        expected = kitti_precision(frames, (limits.height, limits.occluded, limits.truncated))
        at_40, at_11 = metrics[f"KITTI_AP_R40_{difficulty}"], metrics[f"KITTI_AP_R11_{difficulty}"]
        if expected is None:
            assert at_40 is at_11 is None
        else:
            assert at_40 == pytest.approx(sum(expected[1:]) / 40)
            assert at_11 == pytest.approx(sum(expected[::4]) / 11)

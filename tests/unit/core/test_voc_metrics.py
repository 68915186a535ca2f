"""VOC's average precision against values worked out by hand."""

from typing import Any

import numpy as np
import pytest

from calibox_core.voc_metrics import all_point_ap, eleven_point_ap, match_detections, voc_metrics

Row = dict[str, Any]


def thing(image: int, box: list[float], *, difficult: int = 0, category: int = 1) -> Row:
    return {"image_id": image, "category_id": category, "bbox": box, "difficult": difficult}


def found(image: int, box: list[float], score: float, *, category: int = 1) -> Row:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def document(*annotations: Row, classes: int = 1) -> Row:
    categories = [{"id": n, "name": f"class {n}"} for n in range(1, classes + 1)]
    return {"images": [{"id": 1}, {"id": 2}], "categories": categories, "annotations": list(annotations)}


# Three objects that count, one that is difficult; the second is never found.
TRUTH = document(
    thing(1, [0, 0, 10, 10]),
    thing(1, [20, 0, 10, 10]),
    thing(2, [0, 0, 10, 10]),
    thing(2, [40, 0, 10, 10], difficult=1),
)
FOUND = [
    found(1, [60, 0, 10, 10], 0.5),  # nowhere: wrong
    found(2, [0, 0, 10, 20], 0.6),  # IoU of exactly 0.5: right
    found(1, [0, 0, 10, 10], 0.9),  # right
    found(2, [40, 0, 10, 10], 0.8),  # on the difficult one: counts for nothing
    found(1, [1, 0, 10, 10], 0.7),  # the first object again: wrong
]


def test_both_average_precisions_by_hand() -> None:
    # By score: right, -, wrong, right, wrong. Precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3.
    metrics = voc_metrics(TRUTH, FOUND)
    # Recall 0 to 0.3: 1. Recall 0.4 to 0.6: 2/3. Recall 0.7 to 1: 0. So (4 + 3 * 2/3) / 11.
    assert metrics["VOC07_AP50"] == pytest.approx(6 / 11)
    # A third of recall at precision 1, a third at 2/3.
    assert metrics["VOC12_AP50"] == pytest.approx(5 / 9)


def test_a_recall_of_three_tenths_reaches_the_point_0_3() -> None:
    true = np.array([True, True, True])
    assert eleven_point_ap(true, 10) == pytest.approx(4 / 11)
    assert all_point_ap(true, 10) == pytest.approx(0.3)


def test_every_detection_of_a_difficult_object_is_forgiven() -> None:
    truth = document(thing(1, [0, 0, 10, 10], difficult=1), thing(1, [30, 0, 10, 10]))
    detections = [found(1, [0, 0, 10, 10], 0.9), found(1, [0, 0, 10, 11], 0.8), found(1, [30, 0, 10, 10], 0.7)]
    assert voc_metrics(truth, detections) == {"VOC07_AP50": 1.0, "VOC12_AP50": 1.0}


def test_a_detection_belongs_to_the_object_it_overlaps_most_even_if_that_is_difficult() -> None:
    truth = {1: (np.array([[0.0, 0, 10, 10], [2.0, 0, 12, 10]]), np.array([False, True]))}
    true, objects = match_detections(truth, [found(1, [2, 0, 10, 10], 0.9)])
    assert (true.tolist(), objects) == ([], 1)


def test_equal_scores_keep_their_order() -> None:
    truth = {1: (np.array([[0.0, 0, 10, 10]]), np.array([False]))}
    pair = [found(1, [50, 0, 10, 10], 0.5), found(1, [0, 0, 10, 10], 0.5)]
    assert match_detections(truth, pair)[0].tolist() == [False, True]
    assert match_detections(truth, pair[::-1])[0].tolist() == [True, False]
    many = [*pair[:1] * 50, pair[1], *pair[:1] * 50]
    assert match_detections(truth, many)[0].nonzero()[0].tolist() == [50]


def test_classes_are_averaged_and_one_without_objects_is_left_out() -> None:
    truth = document(thing(1, [0, 0, 10, 10]), thing(1, [0, 0, 10, 10], category=2), classes=3)
    detections = [found(1, [0, 0, 10, 10], 0.9), found(1, [0, 0, 10, 10], 0.9, category=3)]
    assert voc_metrics(truth, detections) == {"VOC07_AP50": 0.5, "VOC12_AP50": 0.5}


def test_without_detections_nothing_is_scored_and_without_objects_nothing_measured() -> None:
    assert voc_metrics(TRUTH, []) == {"VOC07_AP50": 0.0, "VOC12_AP50": 0.0}
    only_difficult = document(thing(1, [0, 0, 10, 10], difficult=1))
    assert voc_metrics(only_difficult, FOUND) == {"VOC07_AP50": None, "VOC12_AP50": None}

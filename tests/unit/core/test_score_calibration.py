"""Calibration errors: worked by hand, and as plain loops over detections."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.coco_matching import ClassMatches
from calibox_core.score_calibration import binned_error, detection_ece, laace, laece, reliability

UNIT = st.floats(0, 1, width=32)


def class_of(scores: list[float], iou: list[float], excused: tuple[int, ...] = ()) -> ClassMatches:
    """Detections in falling order of score; an IoU of 0 is a false alarm, ``excused`` ones lie in a crowd."""
    hits = np.array([value > 0 for value in iou], np.bool_)[None]
    counts = np.array([n not in excused for n in range(len(scores))], np.bool_)[None]
    image, there = np.zeros(len(scores), np.int64), np.array([9], np.int64)
    return ClassMatches(image, hits, counts, there, np.array(scores, np.float64), np.array(iou, np.float32)[None])


def error_by_loops(scores: list[float], targets: list[float], bins: int) -> float:
    total = 0.0
    for number in range(bins):
        last = number == bins - 1
        inside = [
            (s, t)
            for s, t in zip(scores, targets, strict=True)
            if int(s * bins) == number or (last and s * bins >= bins)
        ]
        if inside:
            gap = abs(sum(s for s, _ in inside) / len(inside) - sum(t for _, t in inside) / len(inside))
            total += gap * len(inside) / len(scores)
    return total


def test_d_ece_by_hand_is_over_all_classes_together() -> None:
    # One bin of 0.04 holds 0.81 and 0.83 (two of three right: the third is 0.82 of another class), one 0.11.
    found = detection_ece([class_of([0.83, 0.81, 0.11], [0.9, 0, 0]), class_of([0.82], [0.6])])
    assert found == pytest.approx((3 * abs(0.82 - 2 / 3) + 1 * 0.11) / 4, abs=1e-7)


def test_laece_by_hand_is_a_mean_over_classes() -> None:
    # First class: bin of 0.8 holds two, mean score 0.81, share of right ones 1/2 times their IoU 0.9 = 0.45.
    first = abs(0.81 - 0.45)
    second = abs(0.3 - 0.6)
    found = laece([class_of([0.82, 0.80], [0.9, 0]), class_of([0.3], [0.6]), class_of([], [])])
    assert found == pytest.approx((first + second) / 2, abs=1e-7)


def test_laace_by_hand() -> None:
    found = laace([class_of([0.9, 0.5], [0.7, 0]), class_of([0.3], [0.6])])
    assert found == pytest.approx(((0.2 + 0.5) / 2 + 0.3) / 2, abs=1e-7)


def test_what_a_crowd_excuses_is_left_out() -> None:
    for measure in (detection_ece, laece, laace):
        assert measure([class_of([0.9, 0.8], [0.7, 0], excused=(1,))]) == measure([class_of([0.9], [0.7])])


@pytest.mark.parametrize("measure", [detection_ece, laece, laace])
def test_no_detection_is_no_error(measure: Any) -> None:
    assert measure([class_of([], [])]) is None


@given(st.lists(st.tuples(UNIT, UNIT), min_size=1, max_size=40), st.integers(1, 30))
def test_a_binned_error_is_that_of_plain_loops(pairs: list[tuple[float, float]], bins: int) -> None:
    scores, targets = (list(column) for column in zip(*pairs, strict=True))
    found = binned_error(np.array(scores), np.array(targets), bins=bins)
    assert found == pytest.approx(error_by_loops(scores, targets, bins), abs=1e-9)


@given(st.lists(UNIT, min_size=1, max_size=40))
def test_scores_that_are_what_they_announce_have_no_error(scores: list[float]) -> None:
    assert binned_error(np.array(scores), np.array(scores)) == pytest.approx(0, abs=1e-12)


def test_reliability_by_hand() -> None:
    rows = reliability(np.array([0.05, 0.31, 0.39, 1.0]), np.array([0.0, 0.2, 0.4, 0.9]))
    expected = [(0.05, 0.0, 1), (0.35, 0.3, 2), (1.0, 0.9, 1)]
    assert [tuple(row) for row in rows] == [pytest.approx(row) for row in expected]
    assert reliability(np.empty(0), np.empty(0)) == []

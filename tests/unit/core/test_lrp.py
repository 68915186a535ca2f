"""LRP: worked by hand, and as plain loops over every threshold."""

import numpy as np
import pytest

from calibox_core.coco_matching import ClassMatches
from calibox_core.lrp import OptimalLrp, mean_lrp, optimal_lrp


def class_of(scores: list[float], iou: list[float], objects: int, excused: tuple[int, ...] = ()) -> ClassMatches:
    """Detections in falling order of score; an IoU of 0 is a false alarm, ``excused`` ones lie in a crowd."""
    hits = np.array([value > 0 for value in iou], np.bool_)[None]
    counts = np.array([n not in excused for n in range(len(scores))], np.bool_)[None]
    there = np.array([objects], np.int64)
    image = np.zeros(len(scores), np.int64)
    return ClassMatches(image, hits, counts, there, np.array(scores, np.float64), np.array(iou, np.float32)[None])


def lrp_by_loops(scores: list[float], iou: list[float], objects: int) -> tuple[float, float | None]:
    """The least error over all thresholds, and the threshold; to keep nothing is an error of 1."""
    best: tuple[float, float | None] = (1.0, None)
    for threshold in sorted(set(scores), reverse=True):
        kept = [value for score, value in zip(scores, iou, strict=True) if score >= threshold]
        right = [value for value in kept if value > 0]
        wrong, missed = len(kept) - len(right), objects - len(right)
        error = (sum((1 - value) / 0.5 for value in right) + wrong + missed) / (len(right) + wrong + missed)
        if error < best[0]:
            best = (error, threshold)
    return best


def test_worked_by_hand() -> None:
    # Three objects. At 0.7: two right ones (IoU 0.9 and 0.75), one false alarm, one object missed:
    # (0.2 + 0.5 + 1 + 1) / 4 = 0.675. At 0.9: (0.2 + 2) / 3 = 0.7333; at 0.8: (0.2 + 1 + 2) / 4 = 0.8;
    # at 0.6: (0.7 + 2 + 1) / 5 = 0.74.
    found = optimal_lrp(class_of([0.9, 0.8, 0.7, 0.6], [0.9, 0, 0.75, 0], objects=3))
    assert found is not None
    assert found.error == pytest.approx(0.675, abs=1e-7)
    assert found.localization == pytest.approx((0.1 + 0.25) / 2, abs=1e-7)
    assert found.false_positive == pytest.approx(1 / 3)
    assert found.false_negative == pytest.approx(1 / 3)
    assert found.threshold == 0.7


@pytest.mark.parametrize("seed", range(20))
def test_the_least_error_is_that_of_the_best_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 30))
    scores = sorted(rng.choice([0.1, 0.2, 0.3, 0.5, 0.7, 0.9], count).tolist(), reverse=True)  # many are equal
    iou = [float(np.float32(rng.uniform(0.5, 1))) if rng.random() < 0.5 else 0.0 for _ in range(count)]
    objects = sum(value > 0 for value in iou) + int(rng.integers(1, 5))
    found = optimal_lrp(class_of(scores, iou, objects))
    error, threshold = lrp_by_loops(scores, iou, objects)
    assert found is not None
    assert (found.error, found.threshold) == (pytest.approx(error, abs=1e-12), threshold)


def test_equal_scores_are_kept_together() -> None:
    # Were they parted, the right one alone would cost 0.2 / 1; kept together they cost (0.2 + 1) / 2.
    found = optimal_lrp(class_of([0.5, 0.5], [0.9, 0], objects=1))
    assert found is not None
    assert found.error == pytest.approx(0.6, abs=1e-7)


def test_what_a_crowd_excuses_costs_nothing() -> None:
    with_it = optimal_lrp(class_of([0.9, 0.8, 0.7], [0.9, 0, 0.8], objects=2, excused=(1,)))
    assert with_it == optimal_lrp(class_of([0.9, 0.7], [0.9, 0.8], objects=2))


def test_nothing_worth_keeping_is_an_error_of_1_and_no_object_is_no_error_at_all() -> None:
    nothing = OptimalLrp(1.0, None, None, 1.0, None)
    assert optimal_lrp(class_of([], [], objects=2)) == nothing
    assert optimal_lrp(class_of([0.9], [0], objects=2)) == nothing
    assert optimal_lrp(class_of([0.9], [0], objects=0)) is None


def test_means_are_over_classes_that_have_the_part() -> None:
    found = mean_lrp([OptimalLrp(0.4, 0.1, 0.2, 0.3, 0.5), OptimalLrp(1.0, None, None, 1.0, None), None])
    expected = {"oLRP": 0.7, "oLRP_localization": 0.1, "oLRP_false_positive": 0.2, "oLRP_false_negative": 0.65}
    assert found == pytest.approx(expected)
    assert set(mean_lrp([None]).values()) == {None}

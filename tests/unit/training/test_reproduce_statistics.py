"""Intervals and tests against numbers worked out by hand, and against plain loops."""

import math

import numpy as np
import pytest

from calibox_training.reproduce.statistics import bootstrap_p, hierarchical, holm, paired_t, sign_flip_p


def test_students_interval_of_three_differences() -> None:
    # Mean 2, deviation 1, error 1/sqrt(3) = 0.57735; the table's t for 2 degrees of freedom is 4.30265.
    found = paired_t([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert (found.low, found.high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    # With 2 degrees of freedom P(|T| > t) = 1 - t / sqrt(2 + t^2), and t is 2 * sqrt(3).
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert not found.excludes_zero


def test_one_seed_has_no_interval_and_resolves_nothing() -> None:
    found = paired_t([5.0])
    assert found.mean == 5.0
    assert math.isnan(found.low)
    assert math.isnan(found.p)
    assert not found.excludes_zero


@pytest.mark.parametrize(("values", "p"), [([3.0, 3.0], 0.0), ([0.0, 0.0], 1.0)])
def test_differences_without_spread(values: list[float], p: float) -> None:
    found = paired_t(values)
    assert (found.low, found.high, found.p) == (values[0], values[0], p)


def test_sign_flips_count_the_combinations_that_are_as_far_from_zero() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8  # the observed one and its mirror
    assert sign_flip_p([1.0, -2.0, 3.0]) == 6 / 8  # sums 2, -2, 4, -4, 6, -6 of 0, 0, 2, -2, 4, -4, 6, -6
    assert sign_flip_p([0.3]) == 1.0
    assert math.isnan(sign_flip_p([]))


def test_many_seeds_are_flipped_at_random() -> None:
    assert sign_flip_p([1.0] * 20) < 0.001
    assert sign_flip_p([1.0, -1.0] * 10) == 1.0


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    # Sorted 0.01 * 3, 0.03 * 2, 0.04 * 1: the last may not be below the one before.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    with_gap = holm([float("nan"), 0.02])
    assert math.isnan(with_gap[0])
    assert with_gap[1] == 0.02


def test_one_seed_s_hierarchical_interval_is_that_of_its_images() -> None:
    draws = np.arange(1, 1001, dtype=np.float64)
    found = hierarchical([500.0], draws[None])
    assert (found.mean, found.low, found.high) == (500.0, *np.percentile(draws, (2.5, 97.5)))
    assert found.p == 2 / 1001  # no draw is on the other side


def test_the_hierarchical_interval_holds_the_spread_between_seeds() -> None:
    draws = np.array([[0.0] * 400, [1.0] * 400, [2.0] * 400])
    found = hierarchical([0.0, 1.0, 2.0], draws)
    assert found.mean == 1.0
    # All three seeds the same happens in 1/27 of the draws each, more often than 2.5 %.
    assert (found.low, found.high) == (0.0, 2.0)


def test_seeds_of_a_draw_meet_the_same_images() -> None:
    # What one seed gains on some images the other loses: seeds together have no spread over images.
    swing = np.random.default_rng(1).normal(size=500)
    together = hierarchical([1.0, 1.0], np.stack([1 + swing, 1 + swing]))
    assert together.high - together.low == pytest.approx(np.ptp(np.percentile(1 + swing, (2.5, 97.5))))


def test_a_p_value_is_counted_while_a_draw_lies_on_the_other_side() -> None:
    values = np.arange(-4.0, 95.0)  # 5 of 99 at 0 or below
    assert bootstrap_p(values) == pytest.approx(2 * 6 / 100)
    assert bootstrap_p(-values) == bootstrap_p(values)


def test_beyond_all_draws_the_p_value_is_the_normal_tail() -> None:
    """Draws of mean 4 and deviation 1: the two tails beyond 4 deviations hold 6.33e-5."""
    values = 4 + np.resize([-1.0, 1.0], 1000)
    assert bootstrap_p(values) == pytest.approx(6.334e-5, rel=1e-3)
    assert bootstrap_p(-values) == bootstrap_p(values)


def test_a_few_draws_promise_no_more_than_counting_where_their_tail_is_wide() -> None:
    """None of 1,000 lies beyond 0, though the normal tail at 1.5 deviations would be 0.13."""
    values = 1.5 + np.resize([-1.0, 1.0], 1000)
    assert bootstrap_p(values) == pytest.approx(2 / 1001)
    assert bootstrap_p(np.ones(9)) == pytest.approx(2 / 10)

"""Token buckets: numbers by hand, and what holds for every sequence of requests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_server.rate import Limiter, Rate


def test_a_burst_is_taken_at_once_and_then_one_each_time_a_token_has_come() -> None:
    limiter = Limiter(Rate(per_second=2.0, burst=3.0))
    assert [limiter.take("a", 1, 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert limiter.take("a", 1, 10.25) == 0.25
    assert limiter.take("a", 1, 10.5) == 0.0
    assert limiter.take("a", 1, 10.5) == 0.5


def test_callers_do_not_share() -> None:
    limiter = Limiter(Rate(1.0, 1.0))
    assert [limiter.take(caller, 1, 0.0) for caller in "aab"] == [0.0, 1.0, 0.0]


def test_a_quiet_time_gives_no_more_than_the_burst() -> None:
    limiter = Limiter(Rate(1.0, 2.0))
    limiter.take("a", 1, 0.0)
    assert [limiter.take("a", 1, 1000.0) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_more_than_the_burst_is_taken_from_a_full_bucket_and_owed() -> None:
    limiter = Limiter(Rate(per_second=10.0, burst=20.0))
    assert limiter.take("a", 50, 0.0) == 0.0  # 20 - 50: owes 30
    assert limiter.take("a", 0, 0.0) == pytest.approx(3.0)
    assert limiter.take("a", 1, 3.0) == pytest.approx(0.1)
    assert limiter.take("a", 1, 3.1 + 1e-9) == 0.0


def test_the_burst_is_what_comes_in_its_time_and_at_least_one() -> None:
    assert Rate.of(10.0, 2.0) == Rate(10.0, 20.0)
    assert Rate.of(0.1, 2.0) == Rate(0.1, 1.0)


def test_who_was_quiet_longest_is_forgotten_first() -> None:
    limiter = Limiter(Rate(1.0, 1.0), most=2)
    for caller in "abab":
        limiter.take(caller, 1, 0.0)
    limiter.take("c", 1, 0.0)
    assert len(limiter) == 2
    assert limiter.take("b", 1, 0.0) == 1.0  # remembered
    assert limiter.take("a", 1, 0.0) == 0.0  # forgotten, and begins anew


requests = st.lists(st.tuples(st.floats(0, 2), st.integers(0, 5)), max_size=60)


@given(st.floats(0.1, 50), st.floats(1, 20), requests)
def test_never_more_is_taken_than_the_rate_allows(
    per_second: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    limiter, now, taken = Limiter(Rate(per_second, burst)), 0.0, 0
    for pause, count in steps:
        now += pause
        wait = limiter.take("a", count, now)
        taken += count if wait == 0 else 0
        # What is taken beyond the burst is owed: at most one request of 5.
        assert taken <= burst + per_second * now + 5 + 1e-6


@given(st.floats(0.1, 50), st.floats(1, 20), requests, st.integers(1, 5))
def test_the_wait_that_is_named_suffices(
    per_second: float, burst: float, steps: list[tuple[float, int]], count: int
) -> None:
    limiter, now = Limiter(Rate(per_second, burst)), 0.0
    for pause, size in steps:
        now += pause
        limiter.take("a", size, now)
    wait = limiter.take("a", count, now)
    if wait:
        assert limiter.take("a", count, now + wait + 1e-6) == 0.0

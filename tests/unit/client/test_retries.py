"""Pauses, Retry-After and deadlines, without waiting."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_client import RetryPolicy
from calibox_client.budget import RetryBudget
from calibox_client.retries import Deadline, parse_retry_after

NOW = datetime(2025, 3, 1, 12, 0, 0, tzinfo=UTC)


def test_pauses_double_and_their_upper_half_is_random() -> None:
    policy = RetryPolicy(first_pause=0.5, longest_pause=4.0)
    assert [policy.pause(n, None, 0.0) for n in (1, 2, 3, 4, 5)] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert [policy.pause(n, None, 1.0) for n in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 4.0, 4.0]


@given(
    attempt=st.integers(1, 10_000),
    asked=st.none() | st.floats(0, 1e9),
    jitter=st.floats(0, 1),
)
def test_a_pause_is_never_shorter_than_asked_unless_capped(attempt: int, asked: float | None, jitter: float) -> None:
    policy = RetryPolicy(longest_pause=30.0)
    pause = policy.pause(attempt, asked, jitter)
    assert min(asked or 0.0, 30.0) <= pause <= 30.0
    assert pause > 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("1.5", 1.5),
        ("Sat, 01 Mar 2025 12:00:30 GMT", 30.0),
        ("Saturday, 01-Mar-25 12:01:00 GMT", 60.0),
        ("Sat Mar  1 12:00:05 2025", 5.0),
        ("Sat, 01 Mar 2025 11:59:00 GMT", 0.0),
        ("-1", None),
        ("inf", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"first_pause": 0.0},
        {"first_pause": 2.0, "longest_pause": 1.0},
        {"longest_pause": 1e999},
        {"budget": 0.5},
        {"budget_per_second": 0.0},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


def test_a_deadline_counts_down_on_its_clock() -> None:
    now = [100.0]
    deadline = Deadline(5.0, clock=lambda: now[0])
    now[0] = 103.0
    assert deadline.remaining() == 2.0
    now[0] = 106.0
    assert deadline.remaining() == -1.0


def test_a_budget_gives_what_it_holds_at_once_and_then_what_comes_with_time() -> None:
    now = [0.0]
    budget = RetryBudget(2, per_second=0.5, clock=lambda: now[0])
    assert [budget.take(10.0) for _ in range(2)] == [0.0, 0.0]
    assert budget.take(10.0) == 2.0  # half a token per second: the third is there after two seconds, and is promised
    assert budget.take(3.0) is None  # the fourth would be there after four
    assert budget.take(4.0) == 4.0
    now[0] = 100.0
    assert [budget.take(0.0) for _ in range(3)] == [0.0, 0.0, None]  # never more than two are kept


def test_ten_calls_bring_a_repeat() -> None:
    budget = RetryBudget(1, per_second=1e-9, clock=lambda: 0.0)
    assert budget.take(0.0) == 0.0
    for _ in range(9):
        budget.call()
    assert budget.take(0.0) is None
    budget.call()
    budget.call()  # one more than ten: tenths do not add up to 1 exactly
    assert budget.take(0.0) == 0.0


@given(steps=st.lists(st.tuples(st.floats(0, 5), st.booleans()), max_size=60))
def test_a_budget_is_never_overdrawn(steps: list[tuple[float, bool]]) -> None:
    """Repeats since the start are at most what there was, what calls brought, and what time brings until they begin."""
    now = [0.0]
    budget = RetryBudget(3, per_second=2.0, clock=lambda: now[0])
    calls = repeats = 0
    for pause, is_call in steps:
        now[0] += pause
        if is_call:
            budget.call()
            calls += 1
        elif (wait := budget.take(1.0)) is not None:
            repeats += 1
            assert 0 <= wait <= 1.0
            assert repeats <= 3 + 2.0 * (now[0] + wait) + 0.1 * calls + 1e-9

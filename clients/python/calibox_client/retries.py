"""When a call is repeated, and how long to wait before: pure decisions, shared by both clients.

Detection changes nothing on the server, so repeating a request is always safe.
"""

import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import tenacity

from calibox_client.errors import OverloadedError, ServerUnreachableError

RetryObserver = Callable[[BaseException, float], None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call is repeated. Times in seconds.

    Attributes:
        attempts: tries in all, the first included; 1 never repeats.
        first_pause: before the second try; doubles from try to try.
        longest_pause: no pause is longer, not even one that the server asks for.
    """

    attempts: int = 5
    first_pause: float = 0.25
    longest_pause: float = 20.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if not 0 < self.first_pause <= self.longest_pause < math.inf:
            raise ValueError(f"pauses must satisfy 0 < first_pause <= longest_pause, got {self}")

    def pause(self, attempt: int, retry_after: float | None, jitter: float) -> float:
        """Seconds before the next try.

        What the server asks for plus up to a quarter, so that its callers do not return all at once; else doubling
        from ``first_pause``, of which the upper half is random. Never longer than ``longest_pause``.

        Args:
            attempt: number of the try that failed, from 1.
            retry_after: seconds that the server asked for, if it did.
            jitter: random, 0..1.
        """
        doubled = self.first_pause * 2.0 ** min(attempt - 1, 60)  # 2^60 is past any cap and still a float
        own = doubled * (1 + jitter) / 2
        asked = (retry_after or 0.0) * (1 + jitter / 4)
        return min(max(own, asked), self.longest_pause)


def parse_retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or an HTTP date; None for anything else."""
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return _seconds_until(text, now)
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def is_repeatable(error: BaseException) -> bool:
    """Broken connections, 429 and 503; nothing else is better the second time."""
    return isinstance(error, ServerUnreachableError | OverloadedError)


class Deadline:
    """The time that a whole call has, on the monotonic clock."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def remaining(self) -> float:
        """Seconds left; negative when it has passed."""
        return self._end - self._clock()


def retrying(
    policy: RetryPolicy, timeout: float, sleep: Callable[[float], None], observer: RetryObserver | None
) -> tenacity.Retrying:
    """The loop around blocking calls: ``retrying(...)(function, *arguments)``."""
    return tenacity.Retrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(is_repeatable),
        wait=_wait(policy),
        stop=tenacity.stop_any(tenacity.stop_after_attempt(policy.attempts), tenacity.stop_before_delay(timeout)),
        before_sleep=_tell(observer),
        reraise=True,
    )


def async_retrying(
    policy: RetryPolicy, timeout: float, sleep: Callable[[float], Awaitable[None]], observer: RetryObserver | None
) -> tenacity.AsyncRetrying:
    """The same loop around coroutine functions."""
    return tenacity.AsyncRetrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(is_repeatable),
        wait=_wait(policy),
        stop=tenacity.stop_any(tenacity.stop_after_attempt(policy.attempts), tenacity.stop_before_delay(timeout)),
        before_sleep=_tell(observer),
        reraise=True,
    )


def _wait(policy: RetryPolicy) -> Callable[[tenacity.RetryCallState], float]:
    def seconds(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, OverloadedError) else None
        return policy.pause(state.attempt_number, asked, random.random())

    return seconds


def _tell(observer: RetryObserver | None) -> Callable[[tenacity.RetryCallState], None]:
    def tell(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if observer is not None and error is not None:
            observer(error, state.upcoming_sleep)

    return tell


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:  # "-0000" and asctime dates; HTTP dates are always UTC
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())

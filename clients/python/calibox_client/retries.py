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
from typing import Any, TypeVar

import tenacity

from calibox_client.budget import RetryBudget
from calibox_client.errors import OverloadedError, ServerUnreachableError

RetryObserver = Callable[[BaseException, float], None]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call is repeated. Times in seconds.

    Attributes:
        attempts: tries in all, the first included; 1 never repeats.
        first_pause: before the second try; doubles from try to try.
        longest_pause: no pause is longer, not even one that the server asks for.
        budget: repeats that all calls of a client may make at once; one that finds none left waits its turn, and is not
            made where that takes longer than ``longest_pause``.
        budget_per_second: how quickly the budget comes back; each call brings a tenth of a repeat too.
    """

    attempts: int = 8  # some 16 to 32 s of pauses: a server that restarts and warms up is back by then
    first_pause: float = 0.25
    longest_pause: float = 20.0
    budget: float = 100.0  # what httpx2's 100 connections may lose together when a server goes away
    budget_per_second: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        if not 0 < self.first_pause <= self.longest_pause < math.inf:
            raise ValueError(f"pauses must satisfy 0 < first_pause <= longest_pause, got {self}")
        if not (1 <= self.budget < math.inf and 0 < self.budget_per_second < math.inf):
            raise ValueError(f"budget must be at least 1 and budget_per_second above 0, got {self}")

    def make_budget(self) -> RetryBudget:
        """A full budget for one client."""
        return RetryBudget(self.budget, self.budget_per_second)

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


@dataclass(frozen=True, slots=True)
class Patience:
    """What decides about the repeats of one client."""

    policy: RetryPolicy
    budget: RetryBudget
    observer: RetryObserver | None = None

    @classmethod
    def of(cls, policy: RetryPolicy | None, observer: RetryObserver | None) -> "Patience":
        """With a full budget; the default policy where None is given."""
        policy = policy or RetryPolicy()
        return cls(policy, policy.make_budget(), observer)

    def tell(self, error: BaseException, pause: float) -> None:
        """Tells the observer, if there is one."""
        if self.observer is not None:
            self.observer(error, pause)

    def pause(self, attempt: int, error: BaseException | None, seconds_left: float) -> float:
        """Seconds before the try after number ``attempt``; infinite where there is to be none."""
        asked = error.retry_after if isinstance(error, OverloadedError) else None
        pause = self.policy.pause(attempt, asked, random.random())
        if attempt >= self.policy.attempts or pause >= seconds_left:
            return math.inf
        turn = self.budget.take(self.policy.longest_pause)
        return math.inf if turn is None else max(pause, turn)


def call(patience: Patience, deadline: Deadline, sleep: Callable[[float], None], attempt: Callable[[], T]) -> T:
    """Tries, and again where that may help; tenacity's loop costs more than the decision, so a first success skips it.

    Args:
        patience: decides.
        deadline: of all tries and pauses.
        sleep: between them.
        attempt: one try.

    Raises:
        Exception: the last try's.
    """
    patience.budget.call()
    try:
        return attempt()
    except Exception as error:
        if not is_repeatable(error):
            raise
        tried = _Tried(error)

    def again() -> T:
        tried.tell_once()
        return attempt()

    return tenacity.Retrying(sleep=sleep, **_loop(patience, deadline.remaining()))(again)


async def call_async(
    patience: Patience,
    deadline: Deadline,
    sleep: Callable[[float], Awaitable[None]],
    attempt: Callable[[], Awaitable[T]],
) -> T:
    """`call` of a coroutine function."""
    patience.budget.call()
    try:
        return await attempt()
    except Exception as error:
        if not is_repeatable(error):
            raise
        tried = _Tried(error)

    async def again() -> T:
        tried.tell_once()
        return await attempt()

    return await tenacity.AsyncRetrying(sleep=sleep, **_loop(patience, deadline.remaining()))(again)


class _Tried:
    """The failure of a first try that was made before the loop, which counts it as its own."""

    def __init__(self, error: Exception) -> None:
        self._error: Exception | None = error

    def tell_once(self) -> None:
        """Raises it the first time."""
        if (error := self._error) is not None:
            self._error = None
            raise error


def _loop(patience: Patience, seconds: float) -> dict[str, Any]:
    """How tenacity repeats a call that has so many seconds left."""

    def wait(state: tenacity.RetryCallState) -> float:
        return patience.pause(state.attempt_number, _error(state), seconds - (state.seconds_since_start or 0.0))

    def tell(state: tenacity.RetryCallState) -> None:
        if (error := _error(state)) is not None:
            patience.tell(error, state.upcoming_sleep)

    return {
        "retry": tenacity.retry_if_exception(is_repeatable),
        "wait": wait,
        "stop": tenacity.stop_before_delay(seconds),  # an infinite pause too
        "before_sleep": tell,
        "reraise": True,
    }


def _error(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        then = parsedate_to_datetime(text)
    except ValueError:
        return None
    if then.tzinfo is None:  # "-0000" and asctime dates; HTTP dates are always UTC
        then = then.replace(tzinfo=UTC)
    return max(0.0, (then - now).total_seconds())

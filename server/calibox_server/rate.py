"""How often a caller may ask: token buckets. Pure; the time is an argument, in seconds."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

MOST_CALLERS = 10_000  # buckets that are remembered: about 2 MB; who was quiet longest is forgotten first


@dataclass(frozen=True, slots=True)
class Rate:
    """What one caller may take: ``per_second`` in the long run, ``burst`` at once after a quiet time."""

    per_second: float
    burst: float

    @classmethod
    def of(cls, per_second: float, burst_s: float) -> "Rate":
        """The rate whose burst is what comes in ``burst_s`` seconds, and at least 1."""
        return cls(per_second, max(1.0, per_second * burst_s))


class Takes(Protocol):
    """A limit on callers."""

    def take(self, caller: str, count: int, now: float, *, owe: bool = False) -> float:
        """As `Limiter.take`."""


@dataclass(slots=True)
class Bucket:
    """What one caller may still take."""

    tokens: float
    filled: float  # when `tokens` was right

    def fill(self, rate: Rate, now: float) -> None:
        """Adds what came since it was filled last."""
        grown = self.tokens + (now - self.filled) * rate.per_second
        self.tokens, self.filled = min(rate.burst, grown), now

    def take(self, rate: Rate, count: int, *, owe: bool = False) -> float:
        """Takes ``count`` tokens, or none of them.

        More than the burst may be taken from a full bucket, and anything at any time by who may ``owe`` it; it is then
        in debt, so that the long run holds.

        Returns: 0 when they were taken, otherwise the seconds until they could be.
        """
        wanted = min(count, rate.burst)
        if owe or self.tokens >= wanted:
            self.tokens -= count
            return 0.0
        # Never 0: what is missing may round away beside a large time.
        return max((wanted - self.tokens) / rate.per_second, math.ulp(1.0))


class Limiter:
    """One bucket per caller.

    Args:
        rate: of every caller.
        most: callers that are remembered. One that is forgotten starts with a full bucket.
    """

    def __init__(self, rate: Rate, most: int = MOST_CALLERS) -> None:
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, count: int, now: float, *, owe: bool = False) -> float:
        """Takes ``count`` tokens of a caller, as `Bucket.take`."""
        return self._bucket(caller, now).take(self._rate, count, owe=owe)

    def _bucket(self, caller: str, now: float) -> Bucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = Bucket(self._rate.burst, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            bucket.fill(self._rate, now)
        return bucket


MakeLimiter = Callable[[Rate], Takes]

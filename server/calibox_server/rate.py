"""How often a caller may ask: token buckets. Pure; the time is an argument, in seconds."""

import math
from collections import OrderedDict
from dataclasses import dataclass

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


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled: float  # when `tokens` was right


class Limiter:
    """One bucket per caller.

    Args:
        rate: of every caller.
        most: callers that are remembered. One that is forgotten starts with a full bucket.
    """

    def __init__(self, rate: Rate, most: int = MOST_CALLERS) -> None:
        self._rate = rate
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, caller: str, count: int, now: float) -> float:
        """Takes ``count`` tokens, or none of them.

        More than the burst may be taken from a full bucket; it is then in debt, so that the long run holds.

        Returns: 0 when they were taken, otherwise the seconds until they could be.
        """
        bucket = self._bucket(caller, now)
        wanted = min(count, self._rate.burst)
        if bucket.tokens >= wanted:
            bucket.tokens -= count
            return 0.0
        # Never 0: what is missing may round away beside a large time.
        return max((wanted - bucket.tokens) / self._rate.per_second, math.ulp(1.0))

    def _bucket(self, caller: str, now: float) -> _Bucket:
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = _Bucket(self._rate.burst, now)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(caller)
            grown = bucket.tokens + (now - bucket.filled) * self._rate.per_second
            bucket.tokens, bucket.filled = min(self._rate.burst, grown), now
        return bucket

"""How many repeats a client makes in all: without a bound, repeats would keep an overloaded server down."""

import threading
import time
from collections.abc import Callable

# A tenth: when every call fails, the server gets a tenth more requests, not several times as many.
_PER_CALL = 0.1


class RetryBudget:
    """A token bucket shared by all calls of a client; safe between threads.

    A repeat takes a token. There are ``tokens`` at first and at most; ``per_second`` come with time, and a tenth with
    each call. A repeat may take a token that is yet to come, and then waits for it.
    """

    def __init__(self, tokens: float, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = self._level = tokens  # below 0: tokens that are yet to come and taken already
        self._per_second = per_second
        self._clock = clock
        self._then = clock()
        self._lock = threading.Lock()

    def call(self) -> None:
        """Notes a first try."""
        with self._lock:
            self._level = min(self._most, self._level + _PER_CALL)

    def take(self, longest_wait: float) -> float | None:
        """Takes a token for one repeat.

        Args:
            longest_wait: seconds that the caller would wait for it.

        Returns: seconds until the token is there; None, and nothing is taken, where that is longer.
        """
        with self._lock:
            now = self._clock()
            level = min(self._most, self._level + (now - self._then) * self._per_second)
            self._then = now
            wait = max(0.0, 1 - level) / self._per_second
            self._level = level if wait > longest_wait else level - 1
            return None if wait > longest_wait else wait

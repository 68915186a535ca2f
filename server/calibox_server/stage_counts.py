"""How long requests spent in each stage, counted exactly, in passes over many requests at once.

Letters: S stages (`STAGES`), N buckets, n requests.
"""

import threading
from collections.abc import Mapping
from operator import itemgetter

import numpy as np

from calibox_server.histogram_text import head, values

STAGES = ("decode", "queue", "engine", "total")
# Seconds. From a letterbox of a small image to the longest timeout that is usual; each step 2 to 2.5 times the last.
EDGES = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PASS = 256  # requests that are gathered for a pass: its fixed cost is shared, and they hold less than 0.1 MB
FAMILY = "calibox_stage_seconds"
_in_order = itemgetter(*STAGES)


class StageCounts:
    """A histogram for each stage; any thread may use it."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, ...]] = []
        self._lock = threading.Lock()
        self._counts_SN = np.zeros((len(STAGES), len(EDGES) + 1), np.int64)
        self._sums_S = np.zeros(len(STAGES))

    def observe(self, seconds: Mapping[str, float]) -> None:
        """Takes the times of one request, by stage."""
        with self._lock:
            self._waiting.append(_in_order(seconds))
            if len(self._waiting) >= PASS:
                self._count()

    def exposition(self) -> str:
        """The counts as Prometheus reads them."""
        with self._lock:
            self._count()
            counts_SN, sums_S = self._counts_SN.copy(), self._sums_S.tolist()
        lines = head(FAMILY, "Time that an answered request spent in each stage.")
        for s, stage in enumerate(STAGES):
            lines += values(FAMILY, {"stage": stage}, EDGES, counts_SN[s], sums_S[s])
        return "\n".join(lines) + "\n"

    def _count(self) -> None:
        """Counts what waits; the lock is held."""
        times_nS = np.array(self._waiting, np.float64).reshape(-1, len(STAGES))
        self._waiting.clear()
        self._sums_S += times_nS.sum(axis=0)
        for s, times_n in enumerate(times_nS.T):
            # `left`: an upper edge belongs to its bucket.
            buckets_n = np.searchsorted(EDGES, times_n, side="left")
            self._counts_SN[s] += np.bincount(buckets_n, minlength=len(EDGES) + 1)

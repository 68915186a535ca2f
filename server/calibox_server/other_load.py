"""How busy others keep the cores that this process may use, where the system tells (Linux does)."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from calibox_server.options import available_cores

_STAT = Path("/proc/stat")
# Of a core's counters, in ticks: user, nice, system, idle, iowait, irq, softirq and steal, which is what a virtual
# machine's host took. What guests of this system used is in `user` already.
_BUSY = (0, 1, 2, 5, 6, 7)
SHORTEST_S = 0.2  # the counters move in hundredths of a second: less says nothing
MOST = 0.15  # with more than this share of the cores taken, a measurement is one of the others


class OtherLoad:
    """Counts from when it was made; whatever ran in this process is not meant."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._taken = _taken()

    def share(self) -> float:
        """Of the cores' time since then, what others had, 0..1; 0 where the system does not tell, or too little ran."""
        seconds = time.monotonic() - self._start
        if seconds < SHORTEST_S:
            return 0.0
        return max(0.0, _taken() - self._taken) / (seconds * available_cores())


def _taken() -> float:
    """Seconds of processor time on this process's cores that were not its own, from an unknown start on."""
    try:
        lines = _STAT.read_text().splitlines()
    except OSError:
        return 0.0
    return busy_seconds(lines, os.sched_getaffinity(0)) - time.process_time()


def busy_seconds(lines: Iterable[str], cores: Iterable[int]) -> float:
    """Seconds that these cores were not idle, all together, of the lines of `/proc/stat`."""
    wanted = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in lines]
    ticks = sum(int(row[1 + place]) for row in rows if row and row[0] in wanted for place in _BUSY)
    return ticks / os.sysconf("SC_CLK_TCK")

"""Times of several steps in turns, so that what slows the machine down slows all of them."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.gpu.setup import Setup

Step = Callable[[], object]
WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds of one step, a number per round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """In the middle."""
        return statistics.median(self.rounds)

    def cell(self) -> str:
        """Median and range."""
        return f"{self.median:.3f} [{min(self.rounds):.3f}, {max(self.rounds):.3f}]"

    def over(self, ours: "Times") -> float:
        """The median over rounds of this by ours: above 1 where ours is faster."""
        return statistics.median(mine / other for mine, other in zip(self.rounds, ours.rounds, strict=True))


def in_turns(setup: Setup, steps: dict[str, Step], *, rounds: int) -> dict[str, Times]:
    """Every round runs every step once, every other round in reverse order; CUDA events, or the CPU's clock.

    A step's time runs from its first call by the CPU, on an idle device, until the device has done it.
    """
    clock = _by_cpu if setup.host else _by_events
    found: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(WARM_UP + rounds):
        for name in list(steps)[:: 1 if number % 2 == 0 else -1]:
            milliseconds = clock(steps[name])
            if number >= WARM_UP:
                found[name].append(milliseconds)
    return {name: Times(tuple(times)) for name, times in found.items()}


def _by_events(step: Step) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def _by_cpu(step: Step) -> float:
    start = time.perf_counter()
    step()
    return (time.perf_counter() - start) * 1e3

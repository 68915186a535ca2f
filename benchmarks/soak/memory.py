"""Whether memory grows with the number of requests: judged by a slope that single jumps cannot sway."""

import asyncio
from collections.abc import Sequence
from itertools import combinations
from statistics import median

from benchmarks.soak.findings import Findings
from benchmarks.soak.mixture import Mixture
from benchmarks.soak.served import SERVE, Served, serving
from benchmarks.soak.setup import Setup

LIMIT = 1.0  # MB per `PER` requests
PER = 10_000
SAMPLES = 400
GROUP = 20  # samples to a floor: ten floors in the second half
LEAK = 1024  # bytes per request of the server that the check must catch
LEAKING = ("-m", "benchmarks.soak.leaking", str(LEAK))
Sample = tuple[int, float]  # requests so far, MB


def growth(samples: Sequence[Sample], *, group: int = GROUP) -> float:
    """MB per `PER` requests in the second half: the median of the slopes of all pairs (Theil and Sen).

    Pairs are of floors, the least of each ``group`` samples: what decodes at the moment and pages that were not given
    back yet come and go by several MB, while what is kept for good raises the floor.
    """
    floors = [min(samples[i : i + group], key=lambda sample: sample[1]) for i in range(0, len(samples), group)]
    last = max(requests for requests, _ in samples)
    late = [floor for floor in floors if floor[0] >= last / 2]
    slopes = [(b - a) / (y - x) for (x, a), (y, b) in combinations(late, 2) if y > x]
    return median(slopes) * PER


def prove(setup: Setup, findings: Findings) -> None:
    """The whole step: the server, and the same that keeps a little of every request."""
    control = setup.requests // 5  # as much as the check needs to see what it looks for
    for title, command, requests in (("calibox serve", SERVE, setup.requests), ("control", LEAKING, control)):
        with serving(setup.models, setup.scratch, setup.serve, command=command) as served:
            mixture, samples = asyncio.run(_watch(setup, served, requests))
            status = served.stop()
        found = growth(samples)
        _report(findings, title, mixture, samples)
        whole = f"{found:+.2f} MB per {PER} requests"
        if command is SERVE:
            findings.must("growth in the second half", found < LIMIT, found=whole, wanted=f"< {LIMIT}")
            findings.must("wrong answers", not mixture.wrong, found=mixture.wrong[:3], wanted=[])
            findings.must("exit status after SIGTERM", status == 0, found=status, wanted=0)
        else:
            findings.must(
                f"control: {LEAK} bytes kept per request are seen", found >= LIMIT, found=whole, wanted=f">= {LIMIT}"
            )


async def _watch(setup: Setup, served: Served, requests: int) -> tuple[Mixture, list[Sample]]:
    samples: list[Sample] = []
    every = max(1, requests // SAMPLES)

    def look(done: int) -> None:
        if done % every == 0:
            samples.append((done, served.pss()))

    mixture = await Mixture.at(served.port, setup.bundle, seed=setup.seed, progress=look)
    await mixture.run(requests)
    return mixture, samples


def _report(findings: Findings, title: str, mixture: Mixture, samples: Sequence[Sample]) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in mixture.seen.most_common())
    findings.sentences.append(f"{title}: {mixture.done} requests: {kinds}.")
    rows = findings.table(f"Memory of {title}: PSS of all its processes", "requests", "MB")
    rows += [[requests, f"{megabytes:.1f}"] for requests, megabytes in samples[39::40]]

"""Open-loop load at shares of the server's own capacity: latency, goodput, refusals, and nothing lost or told twice."""

import gc
from dataclasses import dataclass
from statistics import fmean, median

import uvloop

from benchmarks.soak.findings import Findings
from benchmarks.soak.pictures import asked_pictures, jpegs
from benchmarks.soak.served import Served, serving
from benchmarks.soak.setup import Setup
from benchmarks.soak.shots import OK, REFUSED, Gun, Shot, per_second, quantiles, statuses
from calibox_server.options import Options

SHARES, OVERLOAD = (0.5, 0.8, 0.95, 1.2), 2.0
# One turn of the overload says little, and a long one no more than a short one: on a machine with neighbours the
# capacity itself moves by a tenth within a minute. But the queue has to be full for most of it.
TURNS, TURN = 15, 0.25  # at least a quarter of a segment each
FEWEST, FILLS = 3, 4  # turns are as long as it takes to fill the queue so many times, if they are fewer then
CONCURRENCY = 32
REFUSED_WITHIN_S = 0.010
HELD = 0.1  # share of the requests whose body waits: enough refusals of both kinds, little else changed
# Of them: at twice the load half of all callers find a place at the door; every other of those finds it taken later.
EARLY = 0.3
WARM_UP_S = 2.0
QUEUE = Options.model_fields["queue_size"].default  # places


@dataclass(frozen=True)
class Step:
    """One rate."""

    share: float
    capacity: float  # answers per second in the closed loop before and after, their mean
    shots: list[Shot]
    goodput: float
    unasked: int = 0


def prove(setup: Setup, findings: Findings) -> None:
    """The whole step: capacity in turns with each rate."""
    with serving(setup.models, setup.scratch, setup.serve) as served:
        steps = uvloop.run(_measure(setup, served))  # half the cost of asyncio's own loop
        status = served.stop()
    _report(findings, steps)
    judge_goodput(findings, [step.goodput / step.capacity for step in steps if step.share == OVERLOAD], setup.goodput)
    judge_answers(findings, [shot for step in steps for shot in step.shots], unasked=steps[-1].unasked)
    judge_refusals(findings, [shot for step in steps for shot in step.shots])
    findings.must("exit status after SIGTERM", status == 0, found=status, wanted=0)


async def _measure(setup: Setup, served: Served) -> list[Step]:
    gc.disable()  # the shots of minutes are many objects, to look through them stops the clock
    gun = Gun(served.port, await asked_pictures(served.port, jpegs(setup.bundle, setup.images, 32)))
    await gun.closed_loop(CONCURRENCY, min(WARM_UP_S, setup.seconds))
    before, found = await _capacity(gun, setup.seconds), []
    turn = max(setup.seconds * TURN, FILLS * QUEUE / before)
    turns = max(FEWEST, round(setup.seconds * TURN * TURNS / turn))
    segments = [*((share, setup.seconds) for share in SHARES), *[(OVERLOAD, turn)] * turns]
    for number, (share, seconds) in enumerate(segments):
        shots, started = await gun.open_loop(before * share, seconds, seed=setup.seed + number, held=HELD)
        goodput = per_second(shots, started, seconds)
        after = await _capacity(gun, min(seconds, setup.seconds / 2))
        found.append(Step(share, fmean((before, after)), shots, goodput, gun.unasked))
        before = after
    gun.close()
    gc.enable()
    return found


async def _capacity(gun: Gun, seconds: float) -> float:
    shots, started = await gun.closed_loop(CONCURRENCY, seconds)
    return per_second(shots, started, seconds)


def _report(findings: Findings, steps: list[Step]) -> None:
    columns = (
        "load",
        "capacity /s",
        "sent /s",
        "p50 / p95 / p99 ms",
        "goodput / capacity",
        "answers",
        "client late p99 ms",
    )
    rows = findings.table("Load by a clock (Poisson), latency from the time when a request was due", *columns)
    for step in steps:
        times = [(s.ended - s.due) * 1e3 for s in step.shots if s.status == OK and not s.held]
        late = quantiles([(s.head_sent - s.due) * 1e3 for s in step.shots], 0.99)[0]
        seconds = max(s.due for s in step.shots) - min(s.due for s in step.shots)
        rows.append(
            [
                f"{step.share:.0%}",
                f"{step.capacity:.1f}",
                f"{len(step.shots) / seconds:.1f}",
                " / ".join(f"{q:.1f}" for q in quantiles(times, 0.5, 0.95, 0.99)),
                f"{step.goodput / step.capacity:.3f}",
                ", ".join(f"{count} x {status}" for status, count in statuses(step.shots).items()),
                f"{late:.1f}",
            ]
        )


def judge_goodput(findings: Findings, shares: list[float], least: float) -> None:
    """Answers per second under overload, each turn over the capacity around it; the middle one counts."""
    share = median(shares)
    findings.must(
        f"goodput at {OVERLOAD:.0%} of capacity, median of {len(shares)} turns",
        share >= least,
        found=f"{share:.3f} [{min(shares):.3f}..{max(shares):.3f}]",
        wanted=f">= {least}",
    )


def judge_answers(findings: Findings, shots: list[Shot], *, unasked: int) -> None:
    """Nothing lost, told twice or wrong."""
    lost = sum(not shot.answers for shot in shots)
    findings.must("requests without an answer", lost == 0, found=f"{lost} of {len(shots)}", wanted=0)
    twice = sum(shot.answers > 1 for shot in shots)
    found = f"{twice} requests, {unasked} bytes"
    findings.must("answered twice, or unasked", twice == unasked == 0, found=found, wanted=0)
    wrong = sum(bool(shot.answers) and not shot.right for shot in shots)
    findings.must("answers with another's id or other detections", wrong == 0, found=wrong, wanted=0)


def judge_refusals(findings: Findings, shots: list[Shot]) -> None:
    """Refused at the door: with 429, at once, and before the body came.

    A caller that holds its body back may find a place free at the door and taken once its body is there: it is refused
    then, rightly, and counts neither as quick nor as slow. A server that read bodies first would refuse all of them so.
    """
    refused = [shot for shot in shots if shot.status not in (0, OK)]
    held = [shot for shot in refused if shot.held]
    early = [shot for shot in held if not shot.body_sent or shot.began < shot.body_sent]
    counted = [shot for shot in refused if not shot.held] + early
    quick = sum(shot.status == REFUSED and shot.began - shot.head_sent <= REFUSED_WITHIN_S for shot in counted)
    share = quick / len(counted) if counted else float("nan")
    times = quantiles([(shot.began - shot.head_sent) * 1e3 for shot in counted], 0.5, 0.99, 1)
    inside = quantiles([shot.server_ms for shot in counted], 0.5, 0.99, 1)
    findings.sentences.append(
        f"{len(refused)} refusals: {statuses(refused)}. From the head's last byte to the answer's first: p50 / p99 / "
        f"most {times[0]:.1f} / {times[1]:.1f} / {times[2]:.1f} ms as the client saw it (which shares the cores), "
        f"{inside[0]:.1f} / {inside[1]:.1f} / {inside[2]:.1f} ms by the server's own clock. Of {len(held)} whose body "
        f"was held back {len(early)} came before a byte of it; the others had passed the door."
    )
    findings.must("refusals that are 429 within 10 ms", share >= 0.99, found=f"{share:.4f}", wanted=">= 0.99")
    share = len(early) / len(held) if held else float("nan")
    what = "refusals before the first byte of a body that is held back"
    findings.must(what, share >= EARLY, found=f"{share:.3f}", wanted=f">= {EARLY}")

"""Models that change, fail to change, and a server that is told to stop, while callers ask."""

import asyncio
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak.callers import Callers
from benchmarks.soak.connection import Connection, Request, post
from benchmarks.soak.findings import Findings
from benchmarks.soak.pictures import DETECT, Asked, asked_of, asked_pictures, beginning, jpegs
from benchmarks.soak.served import Served, serving
from benchmarks.soak.setup import Setup
from benchmarks.soak.shots import OK, Gun, Shot, statuses
from calibox_core.bundle import MODEL_FILE
from tests.support.bundles import make_tiny_bundle

CHANGES_PER_STOP = 20  # a stop costs a start; of 200 changes, 10 stops
DRAIN_S = 20  # several times what the stop itself takes on a busy machine
LOAD_S = 2.0  # before a stop, and after it
STOP_LOAD = 32  # requests under way at the stop
STOPPING = 503


def prove(setup: Setup, findings: Findings) -> None:
    """Reloads, failed reloads, stops; always of two small networks that take turns."""
    networks = [make_tiny_bundle(setup.scratch / "networks" / str(seed), seed=seed) for seed in range(2)]
    root = setup.scratch / "changing"
    (root / "tiny").mkdir(parents=True)
    put(root, networks[0])
    with serving(root, setup.scratch, ("--admin", *setup.serve)) as served:
        callers = asyncio.run(_reload(setup, served, root, networks))
        _judge(findings, f"{setup.changes} reloads", callers, kinds=2)
        callers = asyncio.run(_fail(setup, served, root))
        _judge(findings, f"{setup.changes} reloads that fail", callers, kinds=1)
        status = served.stop()
    findings.must("exit status after SIGTERM", status == 0, found=status, wanted=0)
    _stops(setup, findings)


def put(root: Path, bundle: Path) -> None:
    """Lets tiny/1 be ``bundle``, by one rename of a link."""
    link = root / "tiny" / ".next"
    link.symlink_to(bundle)
    link.replace(root / "tiny" / "1")


async def _reload(setup: Setup, served: Served, root: Path, networks: list[Path]) -> Callers:
    command = await Connection.to(served.port)
    request, right = post(DETECT, jpegs(setup.bundle, setup.images, 1)[0]), []
    for network in networks:
        right.append((await _changed(command, root, network, request)).right)
    callers = Callers(served.port, request, set(right))
    asking = asyncio.create_task(callers.run())
    for number, _ in zip(itertools.cycle(range(2)), range(setup.changes), strict=False):
        new = await _changed(command, root, networks[number], request)
        if new.right != right[number]:
            callers.wrong.append("the model before answered after a reload")
        await callers.wait_for_more()
    callers.stopping = True
    await asking
    command.close()
    return callers


async def _changed(command: Connection, root: Path, network: Path, request: Request) -> Asked:
    """Puts a network in place, reloads, and asks it."""
    put(root, network)
    answer = await command.ask(post("/v1/models/tiny/reload", b""))
    assert answer.status == OK, answer.body
    found = await command.ask(request)
    assert found.status == OK, found.body
    return Asked(request, beginning(found.body))


async def _fail(setup: Setup, served: Served, root: Path) -> Callers:
    request = post(DETECT, jpegs(setup.bundle, setup.images, 1)[0])
    (whole,) = await asked_of(served.port, [request])
    broken = make_tiny_bundle(setup.scratch / "networks" / "broken")
    (broken / MODEL_FILE).write_bytes(b"cut short")
    put(root, broken)
    callers, command = Callers(served.port, request, {whole.right}), await Connection.to(served.port)
    asking = asyncio.create_task(callers.run())
    for _ in range(setup.changes):
        answer = await command.ask(post("/v1/models/tiny/reload", b""))
        if answer.status != 422:
            callers.wrong.append(f"a reload of a broken bundle: {answer.status}")
        await callers.wait_for_more()
    callers.stopping = True
    await asking
    command.close()
    return callers


def _judge(findings: Findings, what: str, callers: Callers, *, kinds: int) -> None:
    lost = len(callers.lost)
    found = f"{callers.answered} answers, wrong: {callers.wrong[:3]}, lost: {lost}, unasked: {callers.unasked} bytes"
    whole = not callers.wrong and not lost and not callers.unasked and len(callers.seen) == kinds
    findings.must(what, whole, found=found, wanted="all right, none lost")


def _stops(setup: Setup, findings: Findings) -> None:
    """SIGTERM under load, some times."""
    columns = ("sent before, not answered yet", "answered right", "503, not read yet", "sent later", "s until exit")
    rows, bad = findings.table("SIGTERM under load", *columns), []
    for number in range(max(1, setup.changes // CHANGES_PER_STOP)):
        options = ("--drain-s", str(DRAIN_S), *setup.serve)
        with serving(setup.models, setup.scratch, options) as served:
            stop = asyncio.run(_stop(setup, served, number))
        before = [shot for shot in stop.shots if shot.body_sent < stop.told and not 0 < shot.ended < stop.told]
        right = sum(shot.right and shot.status == OK for shot in before)
        refused = sum(shot.right and shot.status == STOPPING for shot in before)
        later = statuses([shot for shot in stop.shots if shot.head_sent >= stop.told])
        shown = ", ".join(f"{count} x {code or 'nobody there'}" for code, count in later.items())
        rows.append([len(before), right, refused, shown, f"{stop.seconds:.2f}"])
        wrong = any(shot.answers and not shot.right for shot in stop.shots) or set(later) - {0, OK, STOPPING}
        if wrong or not 0 < right == len(before) - refused or stop.status != 0 or stop.seconds > DRAIN_S:
            bad.append(rows[-1])
    wanted = f"what was read is answered right, the rest told 503, exit 0 within {DRAIN_S} s"
    findings.must(f"{len(rows)} stops under load", not bad, found=bad or "all so", wanted=wanted)


@dataclass(frozen=True)
class Stop:
    """What came of a SIGTERM."""

    shots: list[Shot]
    told: float  # on the clock of the shots
    status: int
    seconds: float  # until the process ended


async def _stop(setup: Setup, served: Served, number: int) -> Stop:
    gun = Gun(served.port, await asked_pictures(served.port, jpegs(setup.bundle, setup.images, 16)))
    shooting = asyncio.create_task(gun.closed_loop(STOP_LOAD, 2 * LOAD_S))
    await asyncio.sleep(LOAD_S + number * 0.013)  # each time at another moment
    told = time.perf_counter()
    served.process.terminate()
    status = await asyncio.to_thread(served.process.wait, 3 * DRAIN_S)
    seconds = time.perf_counter() - told
    shots, _ = await shooting
    return Stop(shots, told, status, seconds)

"""`kill -9` of the processes of `--http-workers`, again and again, while callers ask: what is lost, and who notices."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.callers import Callers
from benchmarks.soak.connection import Connection, get, post
from benchmarks.soak.findings import Findings
from benchmarks.soak.pictures import DETECT, asked_of, jpegs
from benchmarks.soak.served import Served, serving
from benchmarks.soak.setup import Setup
from benchmarks.soak.shots import OK, quantiles
from calibox_client import AsyncClient
from tests.support.http_workers import Workers

CHANGES_PER_KILL = 10  # a process that was killed often comes back after 5 s; of 200 changes, 20 kills of each kind
CALLERS = 8
SDK_CALLERS = 4
TIMEOUT_MS = 60_000  # the longest that a request waits for the engine's successor, on a busy machine
OLDEST = "front-1"  # of two that are killed in turns the one that has the connections
AWAY = 503
PATIENCE_S = 60.0


@dataclass
class Kills:
    """What became of killing one kind of process."""

    callers: Callers
    back: list[float] = field(default_factory=list)  # seconds until readiness told that all was well again
    in_flight: int = 0  # connections that the killed processes had; each has one request at most
    strangers: int = 0  # connections that broke though another process had them
    told: int = 0  # kills of which readiness told
    retried: int = 0  # requests that the SDK repeated
    sdk_answers: set[tuple[object, ...]] = field(default_factory=set)


def prove(setup: Setup, findings: Findings) -> None:
    """Kills of the engine process, then of front ends."""
    options = ("--http-workers", "2", "--timeout-ms", str(TIMEOUT_MS), *setup.serve)
    kills = max(1, setup.changes // CHANGES_PER_KILL)
    with serving(setup.models, setup.scratch, options) as served:
        engine = asyncio.run(_kill_engine(setup, served, kills))
        fronts = asyncio.run(_kill_fronts(setup, served, kills))
        status = served.stop()
    rows = findings.table("`kill -9` under load", "killed", "times", "ready again after s, p50 / most", "right answers")
    for name, found in (("engine process", engine), ("front ends in turns", fronts)):
        back = " / ".join(f"{seconds:.2f}" for seconds in quantiles(found.back, 0.5, 1))
        rows.append([name, len(found.back), back, found.callers.answered])
    _judge_engine(findings, engine, kills)
    _judge_fronts(findings, fronts)
    findings.must("exit status after SIGTERM", status == 0, found=status, wanted=0)


def _judge_engine(findings: Findings, kills: Kills, times: int) -> None:
    lost = len(kills.callers.lost)
    findings.must("engine process: requests lost", lost == 0, found=lost, wanted=0)
    _judge_answers(findings, "engine process", kills.callers)
    findings.must("engine process: kills of which readiness told", kills.told == times, found=kills.told, wanted=times)


def _judge_fronts(findings: Findings, kills: Kills) -> None:
    broken = len(kills.callers.lost) + kills.retried
    findings.must(
        "front ends: requests that broke, those that the SDK repeated among them",
        0 < broken <= kills.in_flight,
        found=f"{broken}, {kills.retried} of the SDK",
        wanted=f"1 to {kills.in_flight}, as many as were in flight in them",
    )
    _judge_answers(findings, "front ends", kills.callers)
    found = f"{kills.strangers} connections"
    findings.must("front ends: what broke was another's", kills.strangers == 0, found=found, wanted="none")
    kinds = len(kills.sdk_answers)
    findings.must("front ends: kinds of answers of the SDK, which raised no error", kinds == 1, found=kinds, wanted=1)


def _judge_answers(findings: Findings, name: str, callers: Callers) -> None:
    found = f"{callers.wrong[:3]}, {callers.unasked} bytes"
    fine = not callers.wrong and not callers.unasked
    findings.must(f"{name}: wrong answers, or told twice", fine, found=found, wanted="none")


@asynccontextmanager
async def _asked(setup: Setup, served: Served) -> AsyncIterator[Kills]:
    request = post(DETECT, jpegs(setup.bundle, setup.images, 1)[0])
    (whole,) = await asked_of(served.port, [request])
    kills = Kills(Callers(served.port, request, {whole.right}, CALLERS))
    asking = asyncio.create_task(kills.callers.run())
    yield kills
    await kills.callers.wait_for_more()
    kills.callers.stopping = True
    await asking


async def _kill_engine(setup: Setup, served: Served, times: int) -> Kills:
    workers = Workers(served.process, served.url)
    async with _asked(setup, served) as kills:
        for _ in range(times):
            await kills.callers.wait_for_more()
            workers.kill("engine")
            killed = time.perf_counter()
            await _until_ready(served.port, AWAY)
            kills.told += 1
            await _until_ready(served.port, OK)
            kills.back.append(time.perf_counter() - killed)
    return kills


async def _kill_fronts(setup: Setup, served: Served, times: int) -> Kills:
    workers, stop, retried = Workers(served.process, served.url), asyncio.Event(), list[BaseException]()
    async with _asked(setup, served) as kills:
        picture = kills.callers.request.body

        async def ask_by_sdk() -> None:
            async with AsyncClient(served.url, on_retry=lambda error, _: retried.append(error)) as client:
                while not stop.is_set():
                    found = await client.detect(picture)
                    kills.sdk_answers.add(tuple((d.label, d.score, *d.box) for d in found.detections))

        async with asyncio.TaskGroup() as sdk:
            for _ in range(SDK_CALLERS):
                sdk.create_task(ask_by_sdk())
            for _ in range(times):
                await kills.callers.wait_for_more()
                pid, lost = workers.pids()[OLDEST], len(kills.callers.lost)
                ports = _client_ports(pid)
                kills.in_flight += len(ports)
                workers.kill(OLDEST)
                killed = time.perf_counter()
                await _until(lambda pid=pid: workers.whole_without(pid))
                await _until_ready(served.port, OK)
                kills.back.append(time.perf_counter() - killed)
                kills.strangers += len(set(kills.callers.lost[lost:]) - ports)
            stop.set()
        kills.retried = len(retried)
    return kills


def _client_ports(pid: int) -> set[int]:
    """The clients' ports of the TCP connections that a process holds (Linux)."""
    links = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if f"socket:[{row[9]}]" in links}


async def _until_ready(port: int, wanted: int) -> None:
    """Until two connections in turn, which go to different front ends, are told so."""

    async def told() -> int:
        connection = await Connection.to(port)
        try:
            return (await connection.ask(get("/readyz"))).status
        finally:
            connection.close()

    async with asyncio.timeout(PATIENCE_S):
        while [await told(), await told()] != [wanted] * 2:
            await asyncio.sleep(0.005)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.005)

"""Damaged bodies and heads against a live server: always an answer, never one that blames the server, never a hang.

Every body is made from a seed and its number. Between them whole requests ask whether the server still answers right.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from benchmarks.soak.connection import Connection, ConnectionLost, Request
from benchmarks.soak.findings import Findings
from benchmarks.soak.mutations import damaged
from benchmarks.soak.pictures import Asked, asked_of, beginning
from benchmarks.soak.served import serving
from benchmarks.soak.setup import Setup
from benchmarks.soak.surfaces import surfaces

CONNECTIONS = 16
SANE_EVERY = 100  # bodies of one connection between two whole requests
HEADS = 0.05  # share of the requests whose head is damaged instead
PATIENCE_S = 30.0  # what takes longer hangs
BY_DESIGN = {503, 504}
# Bodies that never come whole are given up after half a second, and what decodes stays small.
OPTIONS = ("--slow-grace-s", "0.5", "--min-upload-rate", "1000000", "--max-pixels", "4000000", "--max-tiles", "16")


@dataclass
class Seen:
    """What came of the damaged requests."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)  # by kind and status; 0: closed, -1: hung
    wrong: list[str] = field(default_factory=list)  # whole requests with other answers than alone
    blamed: dict[str, Request] = field(default_factory=dict)  # requests that the server took for its own failure
    bodies: int = 0
    sane: int = 0


@dataclass
class Damage:
    """Makes damaged requests of whole ones."""

    whole: dict[str, Asked]
    seed: int

    def __post_init__(self) -> None:
        self._names = list(self.whole)
        self._bodies = [asked.request.body for asked in self.whole.values()]

    def make(self, number: int) -> tuple[str, Request, bool]:
        """The kind of a number, its request, and whether its head is what is damaged."""
        rng = Random(self.seed * 10_000_019 + number)
        name = rng.choice(self._names)
        request = self.whole[name].request
        if rng.random() < HEADS:
            return name, Request(damaged(rng, request.head, [request.head]) + b"\r\n\r\n", request.body), True
        body = damaged(rng, request.body, self._bodies)
        return name, Request(_of_length(request.head, len(body)), body), False


def _of_length(whole: bytes, length: int) -> bytes:
    before, _, after = whole.partition(b"Content-Length: ")
    return before + b"Content-Length: %d" % length + after[after.index(b"\r\n") :]


def prove(setup: Setup, findings: Findings) -> None:
    """The whole step."""
    with serving(setup.models, setup.scratch, (*OPTIONS, *setup.serve)) as served:
        seen = asyncio.run(attack(setup, served.port))
        alive = served.process.poll() is None
        peak, said = served.peak(), served.said()
        status = served.stop()
    _report(setup, findings, seen)
    blamed = sum(n for (_, code), n in seen.answers.items() if code >= 500 and code not in BY_DESIGN)
    hung = sum(n for (_, code), n in seen.answers.items() if code < 0)
    findings.must("damaged requests", seen.bodies >= setup.bodies, found=seen.bodies, wanted=f">= {setup.bodies}")
    findings.must("answers of 5xx but 503 and 504", blamed == 0, found=blamed, wanted=0)
    findings.must(f"requests without an answer after {PATIENCE_S:.0f} s", hung == 0, found=hung, wanted=0)
    findings.must(
        f"wrong answers to {seen.sane} whole requests between", not seen.wrong, found=seen.wrong[:3], wanted=[]
    )
    findings.must("the server lives, and ends by itself", alive and status == 0, found=status, wanted=0)
    findings.sentences.append(f"Most resident memory {peak:.0f} MB.{_log(said)}")


def _log(said: str) -> str:
    return f" The server's log ends:\n\n```text\n{said[-1000:]}\n```" if said.strip() else " The server logged nothing."


async def attack(setup: Setup, port: int) -> Seen:
    """Sends ``setup.bodies`` damaged requests."""
    named = surfaces(setup.bundle)
    detections = {name: request for name, request in named.items() if name != "tensors"}
    right = dict(zip(detections, await asked_of(port, list(detections.values())), strict=True))
    damage = Damage(right | {"tensors": Asked(named["tensors"], b"")}, setup.seed)
    seen, numbers = Seen(), iter(range(setup.bodies))
    await asyncio.gather(*(_attacker(port, damage, list(right.values()), numbers, seen) for _ in range(CONNECTIONS)))
    _keep(setup.scratch / "blamed", seen)
    return seen


async def _attacker(port: int, damage: Damage, sane: list[Asked], numbers: Iterator[int], seen: Seen) -> None:
    connection = await Connection.to(port)
    whole = itertools.cycle(sane)
    for count, number in enumerate(numbers):
        kind, request, in_head = damage.make(number)
        # What a damaged head leaves on its connection belongs to nobody.
        own = await Connection.to(port) if in_head else connection
        status = await _status(own, request)
        seen.answers["head" if in_head else kind, status] += 1
        seen.bodies += 1
        if status < 0 or (status >= 500 and status not in BY_DESIGN):
            seen.blamed[f"{number}-{status}"] = request
        if in_head:
            own.close()
        if not connection.open:
            connection = await Connection.to(port)
        if count % SANE_EVERY == 0:
            await _check(connection, next(whole), seen)
    connection.close()


async def _status(connection: Connection, request: Request) -> int:
    try:
        return (await connection.ask(request, patience=PATIENCE_S)).status
    except ConnectionLost:
        return 0
    except TimeoutError:
        connection.close()
        return -1


async def _check(connection: Connection, asked: Asked, seen: Seen) -> None:
    answer = await connection.ask(asked.request)
    seen.sane += 1
    if answer.status != 200 or beginning(answer.body) != asked.right:
        seen.wrong.append(f"{answer.status} {answer.body[:200]!r}")


def _keep(folder: Path, seen: Seen) -> None:
    if seen.blamed:
        folder.mkdir(exist_ok=True)
        for name, request in seen.blamed.items():
            (folder / name).write_bytes(request.head + request.body)


def _report(setup: Setup, findings: Findings, seen: Seen) -> None:
    codes = sorted({code for _, code in seen.answers})
    shown = {0: "closed", -1: "hung"}
    rows = findings.table(f"Damaged requests, seed {setup.seed}", "made from", *(shown.get(c, str(c)) for c in codes))
    for kind in sorted({kind for kind, _ in seen.answers}):
        rows.append([kind, *(seen.answers[kind, code] for code in codes)])

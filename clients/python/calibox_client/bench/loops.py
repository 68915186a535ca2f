"""Closed and open loops.

A closed loop keeps so many requests under way: each answer brings the next one, so a slow server is asked less. An open
loop asks by the clock, at random moments of a given mean rate (a Poisson process), whether or not answers came; there a
latency counts from the moment when the request was due, so that a server that falls behind shows it.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from calibox_client.bench.wire import Answer, Connection, Target
from calibox_client.errors import ServerUnreachableError

MOST_CONNECTIONS = 1000  # of an open loop: what is due beyond waits its turn, and its latency says so
_PATIENCE = 60.0  # seconds for what is under way at the end


@dataclass(slots=True)
class Tally:
    """What was asked and answered between two moments."""

    begin: float
    end: float
    answers: list[Answer] = field(default_factory=list)  # to what was due between them
    completed: int = 0  # good answers that came between them
    lateness: list[float] = field(default_factory=list)  # seconds by which the open loop itself was late

    def note(self, answer: Answer, due: float) -> None:
        """Counts an answer to a request."""
        self.completed += answer.status == 200 and self.begin <= due + answer.latency < self.end
        if self.begin <= due < self.end:
            self.answers.append(answer)


class Connections:
    """Idle connections to a server; new ones are made as they are needed."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._idle: list[Connection] = []
        self._all: list[Connection] = []

    async def ask(self, request: bytes, due: float) -> Answer:
        """Asks over any of them.

        Raises:
            BadReplyError: what answers is no calibox server.
        """
        try:
            connection = self._take() or await self._make()
        except ServerUnreachableError:
            await asyncio.sleep(0.01)  # a server that is gone is not asked as fast as the loop turns
            return Answer(0, "broken", time.perf_counter() - due)
        answer = await connection.ask(request, due)
        if connection.is_open:
            self._idle.append(connection)
        return answer

    def close(self) -> None:
        """Closes all of them."""
        for connection in self._all:
            connection.close()

    def _take(self) -> Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).is_open:
                return connection
        return None

    async def _make(self) -> Connection:
        connection = await Connection.to(self._target)
        self._all = [one for one in self._all if one.is_open]
        self._all.append(connection)
        return connection


async def closed_loop(
    target: Target, requests: Sequence[bytes], *, concurrency: int, warm_up: float, seconds: float
) -> Tally:
    """Keeps ``concurrency`` requests under way; ``warm_up`` and ``seconds`` are times in seconds."""
    tally, connections, turn = _tally(warm_up, seconds), Connections(target), itertools.cycle(requests)

    async def work() -> None:
        while (due := time.perf_counter()) < tally.end:
            tally.note(await connections.ask(next(turn), due), due)

    try:
        async with asyncio.timeout(warm_up + seconds + _PATIENCE), asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    finally:
        connections.close()
    return tally


async def open_loop(
    target: Target, requests: Sequence[bytes], *, rate: float, seed: int, warm_up: float, seconds: float
) -> Tally:
    """Asks ``rate`` times a second on average; the moments are the same for the same seed."""
    tally, connections, turn = _tally(warm_up, seconds), Connections(target), itertools.cycle(requests)
    places = asyncio.Semaphore(MOST_CONNECTIONS)

    async def ask(due: float) -> None:
        async with places:
            tally.note(await connections.ask(next(turn), due), due)

    try:
        async with asyncio.timeout(warm_up + seconds + _PATIENCE), asyncio.TaskGroup() as group:
            for moment in arrivals(rate, seed):
                due = tally.begin - warm_up + moment
                if due >= tally.end:
                    break
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                tally.lateness.append(max(0.0, time.perf_counter() - due))
                group.create_task(ask(due))
    finally:
        connections.close()
    return tally


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """Moments in seconds from 0 on, ``rate`` per second on average, the pauses between them exponential."""
    generator, moment = random.Random(seed), 0.0
    while True:
        moment += generator.expovariate(rate)
        yield moment


def _tally(warm_up: float, seconds: float) -> Tally:
    begin = time.perf_counter() + warm_up
    return Tally(begin, begin + seconds)

"""Requests by a clock (open loop) and one after another (closed loop), with what became of each.

In the open loop a request is sent when its time comes, whether or not earlier ones were answered, and its latency
counts from that time: a server that stalls is not asked less, and what waited for it is not forgotten.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np

from benchmarks.soak.connection import Answer, Connection, with_id
from benchmarks.soak.pictures import Asked

HOLD_S = 0.02  # how long a held body waits for a refusal; twice the time in which one must come
PATIENCE_S = 60.0  # after the last request, for what was not answered yet
OK, REFUSED = 200, 429


@dataclass(slots=True)
class Shot:
    """One request."""

    number: int
    asked: Asked
    due: float  # when it should be sent
    held: bool  # whether its body waits for a refusal
    head_sent: float = 0.0
    body_sent: float = 0.0  # 0: never
    answers: int = 0
    status: int = 0  # 0: none
    right: bool = False  # as expected, with its own id
    began: float = 0.0  # of the answer
    ended: float = 0.0
    server_ms: float = 0.0  # what the server says that it took

    @property
    def request_id(self) -> str:
        """Its own."""
        return f"shot-{self.number}"


@dataclass
class Gun:
    """Fires shots at a server over as many connections as are needed.

    Args:
        port: of the server.
        asked: what is sent in turns.
    """

    port: int
    asked: Sequence[Asked]
    shots: list[Shot] = field(default_factory=list)
    idle: list[Connection] = field(default_factory=list)
    connections: set[Connection] = field(default_factory=set)
    left: int = 0  # shots that were not answered
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _unread: list[tuple[Shot, Answer]] = field(default_factory=list)  # afterwards: the server has the same cores

    async def open_loop(self, rate: float, seconds: float, *, seed: int, held: float) -> tuple[list[Shot], float]:
        """Poisson arrivals at ``rate`` per second; returns when all are answered, or lost.

        Args:
            rate: requests per second.
            seconds: how long they arrive.
            seed: of the arrivals, and of which bodies are held back.
            held: share of the requests whose body waits `HOLD_S` for a refusal.

        Returns: the shots, and when the first could have come.
        """
        rng = np.random.default_rng(seed)
        arrivals = np.cumsum(rng.exponential(1 / rate, int(rate * seconds * 1.5) + 10))
        arrivals = arrivals[arrivals < seconds]
        waits = rng.random(len(arrivals)) < held
        loop, fired = asyncio.get_running_loop(), []
        started = perf_counter() + 0.05 + 2e-5 * len(arrivals)
        for due, wait in zip((arrivals + started).tolist(), waits.tolist(), strict=True):
            shot = self._shot(due, held=wait)
            fired.append(shot)
            loop.call_later(due - perf_counter(), self._fire, shot)  # a task that sleeps in between costs more
        await self._wait(max(0.0, started + seconds - perf_counter()))
        await self._settle()
        self._read_answers()
        return fired, started

    async def closed_loop(self, concurrency: int, seconds: float) -> tuple[list[Shot], float]:
        """``concurrency`` requests under way at any time; returns the shots and when it began."""
        started = perf_counter()
        stop, fired = started + seconds, []

        async def ask_on() -> None:
            connection = await Connection.to(self.port)
            self.connections.add(connection)
            while perf_counter() < stop and connection.open:
                shot = self._shot(perf_counter(), held=False)
                fired.append(shot)
                done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._send(shot, connection, partial(_resolve, done))
                await done
            connection.close()

        await asyncio.gather(*(ask_on() for _ in range(concurrency)))
        self._read_answers()
        return fired, started

    def _shot(self, due: float, *, held: bool) -> Shot:
        number = len(self.shots)
        shot = Shot(number, self.asked[number % len(self.asked)], due, held)
        self.shots.append(shot)
        self.left += 1
        return shot

    def _fire(self, shot: Shot) -> None:
        while self.idle:
            connection = self.idle.pop()
            if connection.open:
                self._send(shot, connection, partial(self._free, connection))
                return
        task = asyncio.ensure_future(self._connect(shot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, shot: Shot) -> None:
        try:
            connection = await Connection.to(self.port)
        except OSError:  # stays without an answer
            self.left -= 1
            return
        self.connections.add(connection)
        self._send(shot, connection, partial(self._free, connection))

    def _send(self, shot: Shot, connection: Connection, then: "partial[None]") -> None:
        connection.expect(partial(self._answered, shot, connection, then))
        request = shot.asked.request
        head = with_id(request.head, shot.request_id)
        shot.head_sent = perf_counter()
        if shot.held:
            connection.send(head)
            asyncio.get_running_loop().call_later(HOLD_S, self._send_body, shot, connection)
        else:
            shot.body_sent = shot.head_sent
            connection.send(head + request.body)

    @staticmethod
    def _send_body(shot: Shot, connection: Connection) -> None:
        # Every other refused caller closes instead; the rest of them shows that the connection stays usable.
        if shot.answers and shot.number % 2:
            connection.close()
        elif connection.open:
            shot.body_sent = perf_counter()
            connection.send(shot.asked.request.body)

    def _answered(self, shot: Shot, connection: Connection, then: "partial[None]", answer: Answer | None) -> None:
        self.left -= 1
        if answer is not None:
            shot.answers += 1
            shot.status, shot.began, shot.ended = answer.status, answer.began, answer.ended
            self._unread.append((shot, answer))
        if shot.held and not shot.body_sent and connection.open:  # free only once its body has gone
            asyncio.get_running_loop().call_later(HOLD_S * 1.5, then)
        else:
            then()

    def _read_answers(self) -> None:
        for shot, answer in self._unread:
            _read(shot, answer)
        self._unread.clear()

    def _free(self, connection: Connection) -> None:
        if connection.open:
            self.idle.append(connection)

    async def _settle(self) -> None:
        until = perf_counter() + PATIENCE_S
        while (self.left or self._tasks) and perf_counter() < until:
            await asyncio.sleep(0.02)
        await self._wait(3 * HOLD_S)

    @staticmethod
    async def _wait(seconds: float) -> None:
        await asyncio.sleep(seconds)

    @property
    def unasked(self) -> int:
        """Bytes that the server sent though no answer was due."""
        return sum(connection.unasked for connection in self.connections)

    def close(self) -> None:
        """Closes every connection."""
        for connection in self.connections:
            if connection.open:
                connection.close()
        self.idle.clear()


def _resolve(done: "asyncio.Future[None]") -> None:
    if not done.done():
        done.set_result(None)


def _read(shot: Shot, answer: Answer) -> None:
    own = answer.header("x-request-id") == shot.request_id
    shot.right = own and (answer.status != OK or answer.body.startswith(shot.asked.right))
    total = answer.header("server-timing").partition("total;dur=")[2]
    shot.server_ms = float("".join(itertools.takewhile(lambda c: c in "0123456789.", total)) or 0)


def per_second(shots: Sequence[Shot], started: float, seconds: float) -> float:
    """Right answers within the window, per second."""
    return sum(s.status == OK and s.right and s.ended <= started + seconds for s in shots) / seconds


def statuses(shots: Sequence[Shot]) -> dict[int, int]:
    """How many were answered with each; 0: not answered."""
    return dict(sorted(Counter(shot.status for shot in shots).items()))


def quantiles(values: Sequence[float], *shares: float) -> list[float]:
    """Of these values, by nearest rank; NaN where there are none."""
    ordered = sorted(values)
    return [ordered[round((len(ordered) - 1) * share)] if ordered else float("nan") for share in shares]

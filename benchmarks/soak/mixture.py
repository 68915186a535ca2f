"""A mixture of all that callers do, right and wrong, in an order that a seed decides."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from websockets.asyncio.client import connect

from benchmarks.soak.connection import Connection, Request, get, post
from benchmarks.soak.mutations import damaged
from benchmarks.soak.pictures import DETECT, Asked, asked_of, beginning, variants
from benchmarks.soak.surfaces import surfaces, tensors
from calibox_core.bundle import Bundle
from tests.support.pictures import encoded

CONNECTIONS = 12
FRAMES = 20  # of one WebSocket; each counts as a request
# How often each is begun; a stream counts `FRAMES` times.
SHARES = {"right": 60, "damaged": 14, "unknown": 6, "looking": 5, "leaving": 10, "frames": 1}
_FINE = frozenset({200, *range(400, 500), 504})


@dataclass
class Mixture:
    """Requests of every kind at one server.

    Args:
        port: of the server.
        bundle: that it serves.
        right: requests with their answers.
        tensors: a request of the Open Inference Protocol.
        seed: of the order.
        progress: called with the number of requests that ended, after each.
    """

    port: int
    bundle: Bundle
    right: list[Asked]
    tensors: Request
    seed: int
    progress: Callable[[int], None]
    done: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @classmethod
    async def at(cls, port: int, bundle: Bundle, *, seed: int, progress: Callable[[int], None]) -> "Mixture":
        """Asks for the right answers first."""
        whole = [request for name, request in surfaces(bundle).items() if name != "tensors"]
        right, picture = await asked_of(port, whole), variants(bundle, 1)[0]
        return cls(port, bundle, right, tensors(bundle, picture), seed, progress)

    async def run(self, requests: int) -> None:
        """So many requests."""
        numbers = iter(range(requests))
        await asyncio.gather(*(self._caller(Random(self.seed + i), numbers) for i in range(CONNECTIONS)))

    async def _caller(self, rng: Random, numbers: Iterator[int]) -> None:
        connection = await Connection.to(self.port)
        for _ in numbers:
            if not connection.open:
                connection = await Connection.to(self.port)
            kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
            if kind == "leaving":
                await self._leave(rng)
            elif kind == "frames":
                await self._stream(rng, numbers)
            else:
                await self._ask(connection, kind, rng)
            self._ended(kind)
        connection.close()

    def _ended(self, kind: str) -> None:
        self.seen[kind] += 1
        self.done += 1
        self.progress(self.done)

    async def _ask(self, connection: Connection, kind: str, rng: Random) -> None:
        if kind == "right" and rng.random() < 0.9:
            asked = rng.choice(self.right)
            answer = await connection.ask(asked.request)
            if answer.status != 200 or beginning(answer.body) != asked.right:
                self.wrong.append(f"{answer.status} {answer.body[:200]!r}")
            return
        answer = await connection.ask(self._request(kind, rng))
        if answer.status not in _FINE:
            self.wrong.append(f"{kind}: {answer.status} {answer.body[:200]!r}")

    def _request(self, kind: str, rng: Random) -> Request:
        if kind == "right":
            return self.tensors
        if kind == "looking":
            return get(rng.choice(("/livez", "/readyz", "/metrics", "/v1/models", "/v2", "/openapi.json", "/")))
        if kind == "unknown":
            number = rng.randrange(10**9)  # each another: nothing may be kept per name
            paths = (f"/v1/{number}", f"/v1/models/m{number}", f"/v2/models/m{number}/ready")
            detect = post(f"{DETECT}?model=m{number}&timeout_ms={number % 50 + 1}", self.right[0].request.body)
            return rng.choice([*map(get, paths), detect])
        asked = rng.choice(self.right).request
        body = damaged(rng, asked.body, [asked.body])
        return post(
            DETECT, body, rng.choice(("image/jpeg", "application/json", "multipart/form-data; boundary=a-boundary"))
        )

    async def _leave(self, rng: Random) -> None:
        """A caller that goes away: in the head, in the body, or while it is worked on."""
        connection, request = await Connection.to(self.port), rng.choice(self.right).request
        whole = request.head + request.body
        connection.send(whole[: rng.choice((rng.randrange(len(request.head)), rng.randrange(len(whole)), len(whole)))])
        await asyncio.sleep(rng.choice((0, 0.002)))
        connection.close()

    async def _stream(self, rng: Random, numbers: Iterator[int]) -> None:
        """Frames over a WebSocket, one of them damaged; half of the callers leave without a goodbye."""
        frame = encoded(variants(self.bundle, 1)[0], "JPEG")
        async with connect(f"ws://127.0.0.1:{self.port}/v1/stream", compression=None) as stream:
            for count in range(FRAMES):
                await stream.send(frame[:100] if count == FRAMES // 2 else frame)
                if rng.random() < 0.8:
                    await stream.recv()
                if count and next(numbers, None) is not None:
                    self._ended("frames")
            if rng.random() < 0.5:
                with contextlib.suppress(Exception):  # its end is the library's to handle
                    stream.transport.abort()

"""Callers that ask without a pause, while something happens to the server."""

import asyncio
from dataclasses import dataclass, field

from benchmarks.soak.connection import Connection, ConnectionLost, Request
from benchmarks.soak.pictures import beginning
from benchmarks.soak.shots import OK


@dataclass
class Callers:
    """Ask without a pause, each over a connection of its own; an answer is one of those that are right."""

    port: int
    request: Request
    right: set[bytes]
    count: int = 4
    answered: int = 0
    unasked: int = 0  # bytes that came while no answer was due
    lost: list[int] = field(default_factory=list)  # own ports of the connections that broke while an answer was due
    wrong: list[str] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    stopping: bool = False

    async def run(self) -> None:
        """Until they are stopped."""
        await asyncio.gather(*(self._ask_on() for _ in range(self.count)))

    async def _ask_on(self) -> None:
        connection = await Connection.to(self.port)
        while not self.stopping:
            if not connection.open:
                self.unasked += connection.unasked
                connection = await Connection.to(self.port)
            try:
                answer = await connection.ask(self.request)
            except ConnectionLost:
                self.lost.append(connection.own_port)
                continue
            found = beginning(answer.body)
            self.answered += 1
            self.seen.add(found)
            if answer.status != OK or found not in self.right:
                self.wrong.append(f"{answer.status} {answer.body[:200]!r}")
        self.unasked += connection.unasked
        connection.close()

    async def wait_for_more(self) -> None:
        """Until each was answered once more or so."""
        wanted = self.answered + self.count
        while self.answered < wanted and not self.wrong:
            await asyncio.sleep(0.002)

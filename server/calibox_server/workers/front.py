"""A front end: HTTP, decoding and answers, in front of an engine in another process."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn

from calibox_server.app import build_app
from calibox_server.heap import settle
from calibox_server.logs import configure_logs
from calibox_server.serve import Server, make_config
from calibox_server.workers import catalogue, messages
from calibox_server.workers.channel import Channel, close_all
from calibox_server.workers.child import Start, run_child
from calibox_server.workers.desk import Desk
from calibox_server.workers.far_repository import FarRepository
from calibox_server.workers.front_service import FrontService, make_service
from calibox_server.workers.messages import head, read_head
from calibox_server.workers.shared import new_text, read_document


class FrontServer(Server):
    """Uvicorn that gets its connections from the supervisor, and tells it how many there are."""

    def __init__(self, config: uvicorn.Config, service: FrontService, desk: Desk, end: socket.socket) -> None:
        super().__init__(config, service, lambda _: None)
        self._front = service
        self._desk = desk
        self._end = end
        self._received = 0  # connections
        self._beginning = 0  # of them those that no protocol has yet
        self._told = (0, 0)
        self._known = asyncio.Event()  # a catalogue came
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Is ready once the engine process has told what it serves; connections come from the supervisor alone."""
        await uvicorn.Server.startup(self, sockets or [])
        self._front.control = self._control = Channel(self._end, self._ordered, self._orphaned)
        await self._known.wait()
        self._control.send(head(messages.READY))

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: tells how many connections are open."""
        self._tell_counts()
        return await super().on_tick(counter)

    def _tell_counts(self) -> None:
        told = (self._received, len(self.server_state.connections) + self._beginning)
        if told != self._told:
            self._told = told
            self._control.send(head(messages.COUNTS, told[0] << 32 | told[1]))

    async def drained(self) -> None:
        """Waits until the others are drained too: until then new requests here are still told 503."""
        self._control.send(head(messages.DRAINED))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), self._service.drain_left)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The supervisor says when to stop."""
        yield

    def _orphaned(self) -> None:
        self.should_exit = self.force_exit = True
        self._known.set()
        self._ended.set()

    def _ordered(self, packet: bytes, fds: list[int]) -> None:
        """What the supervisor says."""
        kind, number = read_head(packet)
        if kind == messages.CONNECTION:
            self._received += 1
            self._beginning += 1
            self._tell_counts()  # before anything is read of it: until then another front end may still get it
            self._start(self._connect(socket.socket(fileno=fds[0])))
        elif kind == messages.LINK:
            self._link(socket.socket(fileno=fds[0]))
        elif kind == messages.STOP:
            self._service.stop()
            self.should_exit = True
            self._known.set()  # a start that waits for the engine process ends too
        elif kind == messages.END:
            self._ended.set()
        elif kind == messages.PING:
            self._control.send(head(messages.PONG))
        elif kind == messages.SNAPSHOT:
            self._start(self._tell_metrics(number))
        elif kind == messages.SNAPSHOTS:
            question = self._front.questions.get(number)
            texts = read_document(fds[0])
            if question is not None and not question.done():
                question.set_result(texts)

    async def _connect(self, caller: socket.socket) -> None:
        caller.setblocking(False)
        loop, config = asyncio.get_running_loop(), self.config

        def create_protocol() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]
                config=config, server_state=self.server_state, app_state=self.lifespan.state, _loop=loop
            )

        try:
            await loop.connect_accepted_socket(create_protocol, caller, ssl=config.ssl)
        except OSError:  # a handshake that fails is its sender's to know
            pass
        finally:
            self._beginning -= 1

    def _link(self, end: socket.socket) -> None:
        """There is an engine process."""
        repository = self._front.repository
        assert isinstance(repository, FarRepository)  # `make_service` made it

        def told(packet: bytes, fds: list[int]) -> None:
            if packet[0] == messages.ANSWER:
                self._desk.received(packet)
                return
            kind, number = read_head(packet)
            if kind == messages.CATALOGUE:
                repository.apply(catalogue.read(read_document(fds[0])), number)
                self._front.engine_is_there = True
                self._known.set()
            elif kind == messages.CHANGED:
                repository.told(number, read_document(fds[0]))
            else:
                close_all(fds)

        def lost() -> None:
            self._front.engine_is_there = False
            repository.engine_left()

        repository.engine_came(Channel(end, told, lost))

    async def _tell_metrics(self, number: int) -> None:
        text = await asyncio.to_thread(self._front.metrics.exposition)
        self._control.send(head(messages.SNAPSHOT, number), [new_text(text)])

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself keeps only weak references
        task.add_done_callback(self._tasks.discard)


def serve(start: Start) -> None:
    """Runs a front end until the supervisor says that it is enough."""
    configure_logs(start.settings)
    desk = Desk()
    service = make_service(start, desk)
    server = FrontServer(make_config(build_app(service), service), service, desk, start.end)
    settle()
    server.run()


if __name__ == "__main__":
    run_child(serve)

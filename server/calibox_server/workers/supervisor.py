"""The process that the user started: it listens, deals connections out, and keeps the others running.

It imports no web framework and no runtime, so that it is small and nothing that goes wrong with a request reaches it.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine

import structlog

from calibox_core.errors import CaliboxError
from calibox_server.keys import read_keys
from calibox_server.listener import bind
from calibox_server.logs import configure_logs, log_settings
from calibox_server.options import items
from calibox_server.settings import Settings
from calibox_server.workers import messages
from calibox_server.workers.channel import close_all, pair
from calibox_server.workers.children import ENGINE, Child, Patience, start
from calibox_server.workers.gathering import Gathering
from calibox_server.workers.messages import head, read_head
from calibox_server.workers.places import ROWS, Places
from calibox_server.workers.rates import SharedLimiter
from calibox_server.workers.reception import Reception
from calibox_server.workers.shared import check_system, new_document, read_document, read_text
from calibox_server.workers.watch import watch

log = structlog.get_logger()

SPARE_S = 2.0  # for a process to close what it has, after the drain time


class Supervisor:
    """Runs the server.

    Args:
        settings: of the whole server.
        listener: bound.
        announce: gets the lines for the person who started it, once requests are taken.
    """

    def __init__(self, settings: Settings, listener: socket.socket, announce: Callable[[str], None]) -> None:
        self._settings = settings
        self._listener = listener
        self._announce = announce
        self._children: dict[int, Child] = {}  # by number, those that run
        self._patience = {number: Patience() for number in range(settings.http_workers + 1)}
        self._reception = Reception(listener, lambda front: self._children[front].channel)
        self._gathering = Gathering()
        self._processes = settings.http_workers + 1
        self._page = Places.new(self._processes)
        self._places = Places(self._page, self._processes, ENGINE)
        self._rates = [SharedLimiter.new_table() for _ in range(2)]
        self._engines = 0  # that were started
        self._welcome = ""
        self._announced = self._stopping = self._forced = False
        self._failure: str | None = None  # why it cannot start
        self._changed = asyncio.Event()  # whoever waits looks again
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Returns when everything in flight was answered.

        Raises:
            CaliboxError: it cannot start.
        """
        loop = asyncio.get_running_loop()
        for stop in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(stop, self._told_to_stop)
        for number in self._patience:
            self._begin(number)
        self._keep(watch(self._children.values, self._settings.hang_s))
        try:
            await self._until(lambda: self._stopping or self._failure is not None)
            if self._failure is not None:
                raise CaliboxError(self._failure)
            await self._drain()
        finally:
            await self._end()

    def _told_to_stop(self) -> None:
        self._forced = self._stopping  # told a second time, it waits for nobody
        self._stopping = True
        self._changed.set()

    async def _until(self, true: Callable[[], bool], timeout: float | None = None) -> None:
        """Waits until it is so, at most ``timeout`` seconds, or until it is told to wait for nobody."""
        try:
            async with asyncio.timeout(timeout):
                while not (true() or self._forced):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass

    async def _drain(self) -> None:
        """Front ends first, then the engine process."""
        deadline = time.monotonic() + self._settings.drain_s
        for child in self._children.values():
            child.channel.send(head(messages.STOP))
        await self._until(lambda: all(c.drained for c in self._fronts()), self._settings.drain_s)
        self._reception.close()
        for child in self._fronts():
            child.channel.send(head(messages.END))
        left = max(0.0, deadline - time.monotonic())
        await self._until(lambda: not self._fronts(), left + SPARE_S)
        if ENGINE in self._children:
            self._children[ENGINE].channel.send(head(messages.END))
        left = max(0.0, deadline - time.monotonic())
        await self._until(lambda: not self._children, left + SPARE_S)

    async def _end(self) -> None:
        """Nobody is left behind."""
        self._stopping = True
        self._reception.close()
        for task in self._tasks:
            task.cancel()
        for child in self._children.values():
            child.channel.close()
            child.process.kill()
            await asyncio.to_thread(child.process.wait)

    def _fronts(self) -> list[Child]:
        return [child for number, child in self._children.items() if number != ENGINE]

    def _begin(self, number: int) -> None:
        """Starts a process, and links it to those it works with."""
        child = self._children[number] = start(number, time.monotonic(), self._received, self._lost)
        told = {
            "settings": self._settings.model_dump(mode="json"),
            "processes": self._processes,
            "port": self._listener.getsockname()[1],
            # A new engine process takes other rows of the page than the last one had: what drains still counts there.
            "first_model": 1 + self._engines * (ROWS // 8),
        }
        self._engines += number == ENGINE
        fds = [new_document(told), self._page, *self._rates]
        child.channel.send(head(messages.HELLO, number), [os.dup(fd) for fd in fds])
        close_all(fds[:1])
        fronts = self._fronts() if number == ENGINE else [child]
        if ENGINE in self._children:
            for front in fronts:
                self._link(front)
        if self._stopping:
            child.channel.send(head(messages.STOP))

    def _link(self, front: Child) -> None:
        one, other = pair()
        front.channel.send(head(messages.LINK), [one.detach()])
        self._children[ENGINE].channel.send(head(messages.LINK, front.number), [other.detach()])

    def _lost(self, child: Child) -> None:
        self._reception.leave(child.number)
        self._keep(self._bury(child))

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, child: Child) -> None:
        """A process ended; another takes its place, unless the server stops."""
        status = await asyncio.to_thread(child.process.wait)
        del self._children[child.number]
        self._places.forget(child.number)
        self._gathering.ended(child)
        self._changed.set()
        if not self._is_missed(child):
            return
        if not self._announced:
            self._failure = self._failure or f"the {child.name} process ended at its start, with status {status}"
            return
        pause = self._patience[child.number].after(time.monotonic() - child.started)
        log.error("process_ended", process=child.name, status=status, again_in_s=pause)
        await asyncio.sleep(pause)
        if self._is_missed(child):
            self._begin(child.number)

    def _is_missed(self, child: Child) -> bool:
        """Whether another has to take its place: always, and while the server drains that of the engine process."""
        return not self._stopping or (child.number == ENGINE and bool(self._fronts()))

    def _received(self, child: Child, packet: bytes, fds: list[int]) -> None:
        """What a process says."""
        kind, number = read_head(packet)
        if kind == messages.COUNTS:
            self._reception.told(child.number, number >> 32, number & 0xFFFF_FFFF)
        elif kind == messages.PONG:
            child.pulse.answered(number / 1e3)
        elif kind == messages.READY:
            self._ready(child, fds)
        elif kind == messages.DRAINED:
            child.drained = True
            self._changed.set()
        elif kind == messages.FAILED:
            reason = read_text(fds[0]).decode()
            if self._announced:
                log.error("process_failed", process=child.name, reason=reason)
            else:
                self._failure = reason
                self._changed.set()
        elif kind == messages.SNAPSHOT:
            self._gathering.told(child, number, read_text(fds[0]).decode(), self._children.values())

    def _ready(self, child: Child, fds: list[int]) -> None:
        child.ready = True
        if child.number == ENGINE:
            self._welcome = read_document(fds[0])["welcome"]
        else:
            self._reception.join(child.number)
        if not self._announced and len(self._children) == self._processes:
            self._announced = all(other.ready for other in self._children.values())
            if self._announced:
                self._reception.open()
                log_settings(self._settings)
                self._announce(self._welcome)


def supervise(settings: Settings, announce: Callable[[str], None]) -> None:
    """Loads the models and serves until SIGTERM or SIGINT; returns when everything in flight was answered.

    Args:
        settings: of the server; more than one HTTP worker.
        announce: gets the lines for the person who started it, once requests are taken.

    Raises:
        CaliboxError: the port is taken, the system lacks what this needs, or no model could be loaded.
    """
    configure_logs(settings)
    check_system()
    read_keys(settings.api_keys_file, items(settings.api_keys))
    if settings.tls_certificate or settings.tls_key or settings.tls_client_ca:
        from calibox_server.tls import make_context  # brings what this process needs for nothing else

        make_context(settings)
    with bind(settings.host, settings.port) as listener:
        if settings.grpc_port is not None:
            bind(settings.host, settings.grpc_port, "grpc_port").close()  # gRPC binds itself, once models are loaded
        listener.setblocking(False)
        asyncio.run(Supervisor(settings, listener, announce).run())

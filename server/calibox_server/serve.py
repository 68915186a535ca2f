"""Runs the service under uvicorn, and how it starts and stops."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from calibox_server.app import Application, build_app
from calibox_server.connections import Connection, Exchange, Limits, Sweeper, nothing_begins
from calibox_server.fetch.fetcher import make_fetcher
from calibox_server.greeting import welcome
from calibox_server.guard import make_guard
from calibox_server.heap import settle
from calibox_server.listener import BACKLOG, bind
from calibox_server.logs import configure_logs, log_settings
from calibox_server.options import items
from calibox_server.service import Service
from calibox_server.settings import Settings
from calibox_server.tls import make_context, make_renewed_context

LOOK_S = 0.1  # how often a stopping server looks whether it was told again


class Server(uvicorn.Server):
    """Uvicorn that tells the service at once when it is to stop, and its starter when it listens."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready
        self._sweeper = Sweeper(service.settings.slow_grace_s)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then calls ``ready`` with the port."""
        await super().startup(sockets)
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: slow connections end."""
        self._sweeper.look(self.server_state.connections, asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Readiness falls at once, and new requests are told 503."""
        self._service.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for what is in flight while new requests are still told 503, and then closes the listening socket.

        Uvicorn alone would close it first: those who do not know yet that this server stops would find nobody there.
        """
        self._service.stop()
        for connection in list(self.server_state.connections):
            if not isinstance(connection, Connection):
                connection.shutdown()  # a WebSocket would stay as long as its caller likes
        pending = set(self.server_state.tasks)
        while (left := self._service.drain_left) and not self.force_exit:  # a second Ctrl+C waits for nobody
            if pending:
                _, pending = await asyncio.wait(pending, timeout=min(LOOK_S, left))
            elif self._exchanges():
                await asyncio.sleep(min(LOOK_S, left))
            else:
                break
        await self.drained()
        for exchange in self._exchanges():
            exchange.give_up()
        self.config.timeout_graceful_shutdown = self._service.drain_left  # type: ignore[assignment]
        await super().shutdown(sockets)

    def _exchanges(self) -> list[Exchange]:
        """Those that have no answer yet."""
        ours = (connection for connection in self.server_state.connections if isinstance(connection, Connection))
        return [connection.exchanging for connection in ours if connection.exchanging is not None]

    async def drained(self) -> None:
        """Everything in flight was answered, or the time is over. One server alone has nothing to wait for."""


def make_server(app: Application, service: Service, ready: Callable[[int], None]) -> Server:
    """A server that is not running yet.

    Raises:
        TlsError: the certificate cannot be used.
    """
    return Server(make_config(app, service), service, ready)


def make_config(app: Application, service: Service) -> uvicorn.Config:
    """What uvicorn is told.

    Raises:
        TlsError: the certificate cannot be used.
    """
    settings = service.settings
    context = make_renewed_context(settings)
    proxies = items(settings.trusted_proxies)
    begin = app.exchanges.begin if app.exchanges is not None else nothing_begins
    tls: dict[str, Any] = {} if context is None else {"ssl_context_factory": lambda *_: context}
    return uvicorn.Config(
        app,
        http=partial(Connection, Limits.of(settings), service.metrics.refused, begin),  # type: ignore[arg-type]
        proxy_headers=bool(proxies),
        forwarded_allow_ips=list(proxies),
        ws="websockets-sansio",
        ws_max_size=settings.max_bytes,
        ws_per_message_deflate=False,  # images are compressed; and a few bytes could become many
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
        **tls,
    )


def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Loads the models and serves until SIGTERM or SIGINT; returns when everything in flight was answered.

    Args:
        settings: of the server.
        announce: gets the lines for the person who started it, once requests are taken.

    Raises:
        CaliboxError: the port is taken, or no model could be loaded.
    """
    configure_logs(settings)
    make_context(settings)  # what is wrong with certificates and keys is said before models are loaded
    make_guard(settings)
    make_fetcher(settings)
    with bind(settings.host, settings.port) as listener:
        if settings.grpc_port is not None:
            bind(settings.host, settings.grpc_port, "grpc_port").close()  # gRPC binds itself, once models are loaded
        service = Service.load(settings)

        def ready(port: int) -> None:
            log_settings(settings)
            settle()
            announce(welcome(service, settings.host, port))

        server = make_server(build_app(service), service, ready)
        # Uvicorn raises the signal again after its shutdown, which must not end the process by that signal: a stop that
        # was asked for and went well is exit status 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])

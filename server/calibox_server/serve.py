"""Runs the service under uvicorn: socket, signals, logs, and what is printed when it is ready."""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI

from calibox_core.errors import CaliboxError
from calibox_server.app import build_app
from calibox_server.connections import Connection, Limits, Sweeper
from calibox_server.guard import make_guard
from calibox_server.options import ENV_PREFIX, items
from calibox_server.page.examples import find_example
from calibox_server.service import Service
from calibox_server.settings import Settings
from calibox_server.tls import make_context

log = structlog.get_logger()

LOOK_S = 0.1  # how often a stopping server looks whether it was told again
BACKLOG = 2048  # connections that the kernel holds while the event loop is busy


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
        while pending and self._service.drain_left and not self.force_exit:  # a second Ctrl+C waits for nobody
            _, pending = await asyncio.wait(pending, timeout=min(LOOK_S, self._service.drain_left))
        self.config.timeout_graceful_shutdown = self._service.drain_left  # type: ignore[assignment]
        await super().shutdown(sockets)


def make_server(app: FastAPI, service: Service, ready: Callable[[int], None]) -> Server:
    """A server that is not running yet.

    Raises:
        TlsError: the certificate cannot be used.
    """
    settings = service.settings
    context = make_context(settings)
    proxies = items(settings.trusted_proxies)
    tls: dict[str, Any] = {} if context is None else {"ssl_context_factory": lambda *_: context}
    config = uvicorn.Config(
        app,
        http=partial(Connection, Limits.of(settings), service.metrics.refused),  # type: ignore[arg-type]
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
    return Server(config, service, ready)


def bind(host: str, port: int, option: str = "port") -> socket.socket:
    """A bound socket that does not listen yet; ``option`` is the setting that chose the port.

    Raises:
        CaliboxError: the address cannot be used; the text says what to do.
    """
    listener = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart need not wait for old connections
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise CaliboxError(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another port with "
            f"--{option.replace('_', '-')} or {ENV_PREFIX}{option.upper()}, or another address with --host or "
            f"{ENV_PREFIX}HOST"
        ) from error
    return listener


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
    with bind(settings.host, settings.port) as listener:
        if settings.grpc_port is not None:
            bind(settings.host, settings.grpc_port, "grpc_port").close()  # gRPC binds itself, once models are loaded
        service = Service.load(settings)

        def ready(port: int) -> None:
            log_settings(settings)
            announce(welcome(service, settings.host, port))

        server = make_server(build_app(service), service, ready)
        # Uvicorn raises the signal again after its shutdown, which must not end the process by that signal: a stop that
        # was asked for and went well is exit status 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])


def welcome(service: Service, host: str, port: int) -> str:
    """What is printed when the server is ready."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    scheme = "https" if service.settings.tls_certificate else "http"
    url = f"{scheme}://[{shown}]:{port}" if ":" in shown else f"{scheme}://{shown}:{port}"
    names = ", ".join(f"{p.manifest.name}/{p.manifest.version}" for p in service.models)
    engine = next(iter(service.models)).engine
    page = f"\n  look at it:    {url}/" if service.settings.page else ""
    return (
        f"calibox serves {names} with {engine.name}, {engine.instances} at a time\n"
        f"  documentation: {url}/docs\n"
        f"  try it:        curl -F file=@{picture_to_try(service)} {url}/v1/detect{page}"
    )


def picture_to_try(service: Service) -> str:
    """The example of the first model's bundle; a name that explains itself where it has none."""
    first = next(iter(service.models)).manifest
    return str(find_example(service.settings.models, first) or "photo.jpg")


def log_settings(settings: Settings) -> None:
    """A line for each place that settings come from; secrets are stars."""
    shown = settings.shown()
    for source in ("default", "file", "environment", "option"):  # what somebody decided stands last
        if source in shown:
            log.info("settings", source=source, **shown[source])


def configure_logs(settings: Settings) -> None:
    """Structured lines on stderr; uvicorn's own warnings go there too."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    json = settings.log_format == "json"
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
        if json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=shared + last,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # The connection says itself what was wrong, and with which code.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "Invalid HTTP request" not in str(record.msg))
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed body is its sender's to know

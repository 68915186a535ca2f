"""Runs the service under uvicorn: socket, signals, logs, and what is printed when it is ready."""

import logging
import signal
import socket
import sys
from collections.abc import Callable
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI

from calibox_core.errors import CaliboxError
from calibox_server.app import build_app
from calibox_server.service import Service
from calibox_server.settings import ENV_PREFIX, Settings

# Seconds that uvicorn waits beyond the drain time, so that it is the service that ends what is late.
BACKLOG = 2048  # connections that the kernel holds while the event loop is busy


class Server(uvicorn.Server):
    """Uvicorn that tells the service at once when it is to stop, and its starter when it listens."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[int], None]) -> None:
        super().__init__(config)
        self._service = service
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then calls ``ready`` with the port."""
        await super().startup(sockets)
        if self.started:
            self._ready(self.servers[0].sockets[0].getsockname()[1])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Readiness falls before the listening socket closes."""
        self._service.stop()
        super().handle_exit(sig, frame)


def make_server(app: FastAPI, service: Service, ready: Callable[[int], None]) -> Server:
    """A server that is not running yet."""
    settings = service.settings
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        log_level=logging.WARNING,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=settings.drain_s,
    )
    return Server(config, service, ready)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet.

    Raises:
        CaliboxError: the address cannot be used; the text says what to do.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CaliboxError(
            f"{host} is no address of this machine ({error.strerror}); choose one with --host"
        ) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise CaliboxError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port or {ENV_PREFIX}PORT"
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
    with bind(settings.host, settings.port) as listener:
        service = Service.load(settings)

        def ready(port: int) -> None:
            announce(welcome(service, settings.host, port))

        # Uvicorn raises the signal again after its shutdown; a stop that was asked for and went well is exit status 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        make_server(build_app(service), service, ready).run(sockets=[listener])


def welcome(service: Service, host: str, port: int) -> str:
    """What is printed when the server is ready."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    names = ", ".join(f"{p.manifest.name}/{p.manifest.version}" for p in service.models)
    engine = next(iter(service.models)).engine
    return (
        f"calibox serves {names} with {engine.name}, {engine.instances} at a time\n"
        f"  documentation: {url}/docs\n"
        f"  try it:        curl -F file=@photo.jpg {url}/v1/detect"
    )


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

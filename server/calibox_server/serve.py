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

from calibox_core.bundle import find_bundles
from calibox_core.errors import CaliboxError
from calibox_server.app import build_app
from calibox_server.options import ENV_PREFIX
from calibox_server.service import Service
from calibox_server.settings import Settings

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
            f"cannot listen on {host} port {port} ({error.strerror}); choose another port with --port or "
            f"{ENV_PREFIX}PORT, or another address with --host or {ENV_PREFIX}HOST"
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

        server = make_server(build_app(service), service, ready)
        # Uvicorn raises the signal again after its shutdown, which must not end the process by that signal: a stop that
        # was asked for and went well is exit status 0.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])


def welcome(service: Service, host: str, port: int) -> str:
    """What is printed when the server is ready."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    names = ", ".join(f"{p.manifest.name}/{p.manifest.version}" for p in service.models)
    engine = next(iter(service.models)).engine
    return (
        f"calibox serves {names} with {engine.name}, {engine.instances} at a time\n"
        f"  documentation: {url}/docs\n"
        f"  try it:        curl -F file=@{picture_to_try(service)} {url}/v1/detect"
    )


def picture_to_try(service: Service) -> str:
    """The example of the first model's bundle; a name that explains itself where it has none."""
    first = next(iter(service.models)).manifest
    for folder in find_bundles(service.settings.models):
        if first.example is not None and (folder.parent.name, folder.name) == (first.name, first.version):
            return str(folder / first.example)
    return "photo.jpg"


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
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a malformed body is its sender's to know

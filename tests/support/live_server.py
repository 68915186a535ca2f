"""Real servers for tests: uvicorn on 127.0.0.1 and a free port, in a thread or as the command `calibox serve`."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calibox_server.app import build_app
from calibox_server.listener import bind
from calibox_server.models import OpenEngine
from calibox_server.serve import Server, make_server
from calibox_server.service import Service
from calibox_server.settings import Settings

START_LIMIT_S = 60  # generous: a loaded machine is slow, a broken server never comes


@contextmanager
def live_server(models: Path, *, open_engine: OpenEngine | None = None, **settings: Any) -> Iterator[str]:
    """Serves the bundles below ``models`` from a thread of this process.

    Args:
        models: folder of bundles.
        open_engine: replaces ONNX Runtime.
        settings: fields of `calibox_server.settings.Settings`.

    Returns: the base URL, once requests are taken. The server is stopped when the block ends.
    """
    quiet = {"log_level": "warning"}  # no line per request among what a test captures
    wanted = Settings(models=models, host="127.0.0.1", port=0, **quiet | settings)
    with running(Service.load(wanted, open_engine)) as server:
        yield server_url(server)


@contextmanager
def running(service: Service, port: int = 0, *, exchanges: bool = True) -> Iterator[Server]:
    """Runs a service in a thread; requests are taken inside the block.

    Args:
        service: with its models.
        port: a free one unless it is named.
        exchanges: whether connections answer themselves what they can.
    """
    ready = threading.Event()
    with bind("127.0.0.1", port) as listener:
        app = build_app(service)
        if not exchanges:
            app.exchanges = None
        server = make_server(app, service, lambda _: ready.set())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="live server")
        thread.start()
        try:
            assert ready.wait(START_LIMIT_S), "the server did not start"
            yield server
        finally:
            server.should_exit = True
            thread.join()


def server_url(server: Server) -> str:
    """Where a running server is reached."""
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def grpc_address(server: Server) -> str:
    """Where a running server is reached over gRPC; its settings name a port, 0 for any."""
    app: Any = server.config.app
    return f"127.0.0.1:{app.state.grpc_port}"


@contextmanager
def serve_command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command `calibox serve` as a process, killed at the end if it still runs; its output is piped."""
    command = [sys.executable, "-m", "calibox_core.cli", "serve", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()

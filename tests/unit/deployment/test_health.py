"""The health check of the images, as the container engine calls it."""

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support.deployment import health_check


class Readiness(BaseHTTPRequestHandler):
    """Answers `/readyz` with the status that the server object holds."""

    def do_GET(self) -> None:
        assert self.path == "/readyz"
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()
        self.wfile.write(b"a reason")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Readiness) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_the_check_follows_readiness(server: HTTPServer, status: int, code: int) -> None:
    server.status = status  # type: ignore[attr-defined]
    done = health_check(server.server_port)
    assert done.returncode == code
    assert (f"127.0.0.1:{server.server_port} is not ready: 503 a reason" in done.stderr) == (code == 1)


def test_a_server_that_does_not_listen_is_not_ready() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it, and nobody answers
        done = health_check(unused.getsockname()[1])
    assert done.returncode == 1
    assert "is not ready" in done.stderr
    assert "Traceback" not in done.stderr

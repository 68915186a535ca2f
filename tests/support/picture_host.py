"""Hosts that images are fetched from: real servers on 127.0.0.1 that answer as a test wants."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Call:
    """One request that came, and the means to answer it."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.path, self.headers, self._handler = handler.path, dict(handler.headers), handler

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        """A whole answer."""
        self.head(status, Content_Length=str(len(body)), **headers)
        self.send(body)

    def head(self, status: int = 200, **headers: str) -> None:
        """The head alone; underscores in names become hyphens."""
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.end_headers()

    def send(self, data: bytes) -> None:
        """Bytes of the body.

        Raises:
            OSError: nobody takes them any more.
        """
        self._handler.wfile.write(data)
        self._handler.wfile.flush()


class Host:
    """A server that runs."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.calls: list[Call] = []
        self.left = threading.Event()  # set when an answer could not be sent to its end


@contextmanager
def picture_host(serve: Callable[[Call], None], tls: ssl.SSLContext | None = None) -> Iterator[Host]:
    """Serves inside the block.

    Args:
        serve: answers one call; in a thread of its own.
        tls: for HTTPS.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            call = Call(self)
            host.calls.append(call)
            try:
                serve(call)
            except OSError:
                host.left.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    host = Host(server.server_address[1])
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="picture host")
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

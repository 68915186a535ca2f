"""One HTTP/1.1 connection over a raw socket: one request at a time, its bytes made beforehand, its answer timed.

Raw, because the client shares the machine with the server that it measures, and because a request must be able to come
in pieces, or not whole. Times are of `time.perf_counter`, in seconds.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import cast

_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True)
class Request:
    """A head that ends with an empty line, but for ids that are put in before that, and a body."""

    head: bytes
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    head: bytes  # lower case
    body: bytes
    began: float  # when its first byte was read
    ended: float

    @property
    def closes(self) -> bool:
        """Whether the server closes the connection after it."""
        return b"connection: close" in self.head

    def header(self, name: str) -> str:
        """A header's value; empty without one."""
        line = self.head.partition(f"\r\n{name}: ".encode())[2]
        return line.partition(b"\r\n")[0].decode("latin-1")


class ConnectionLost(Exception):
    """The server closed before an answer was whole."""


class Connection(asyncio.Protocol):
    """Calls back once per answer, or with None where the connection ends before one."""

    def __init__(self) -> None:
        self.unasked = 0  # bytes that came while no answer was due
        self.open = False
        self._on_answer: Callable[[Answer | None], None] | None = None
        self._buffer = b""
        self._head_end = self._whole = 0  # of the buffer; 0: not known yet
        self._began = 0.0

    @classmethod
    async def to(cls, port: int) -> "Connection":
        """A new connection to this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is there."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self.own_port: int = transport.get_extra_info("sockname")[1]
        self.open = True

    def expect(self, on_answer: Callable[[Answer | None], None]) -> None:
        """The next answer goes to ``on_answer``."""
        assert self._on_answer is None, "one request at a time"
        self._on_answer = on_answer

    def send(self, data: bytes) -> None:
        """Bytes of a request."""
        self.transport.write(data)

    async def ask(self, request: Request, *, patience: float = 60.0) -> Answer:
        """Sends a whole request and waits for its answer.

        Raises:
            ConnectionLost: the server closed instead.
            TimeoutError: it did not answer.
        """
        waiting: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self.expect(lambda answer: None if waiting.done() else waiting.set_result(answer))
        self.send(request.head + request.body)
        async with asyncio.timeout(patience):
            answer = await waiting
        if answer is None:
            raise ConnectionLost
        return answer

    def data_received(self, data: bytes) -> None:
        """Collects an answer."""
        if self._on_answer is None:
            self.unasked += len(data)
            return
        if not self._buffer:
            self._began = perf_counter()
        self._buffer += data
        if not self._head_end:
            self._head_end = self._buffer.find(b"\r\n\r\n") + 4
            if self._head_end < 4:
                self._head_end = 0
                return
            head = self._buffer[: self._head_end].lower()
            length = head.partition(_LENGTH)[2].partition(b"\r\n")[0]
            self._whole = self._head_end + int(length or b"0")
        if len(self._buffer) >= self._whole:
            self._answered()

    def _answered(self) -> None:
        buffer, end, whole = self._buffer, self._head_end, self._whole
        self.unasked += len(buffer) - whole
        self._buffer, self._head_end, self._whole = b"", 0, 0
        answer = Answer(int(buffer[9:12]), buffer[:end].lower(), buffer[end:whole], self._began, perf_counter())
        if answer.closes:
            self.close()
        call, self._on_answer = self._on_answer, None
        assert call is not None
        call(answer)

    def connection_lost(self, _: Exception | None) -> None:
        """The end; who still waits is told."""
        self.open = False
        call, self._on_answer = self._on_answer, None
        if call is not None:
            call(None)

    def close(self) -> None:
        """Ends it at once; what was not sent yet is not."""
        self.open = False
        self.transport.abort()


def post(path: str, body: bytes, kind: str = "image/jpeg", *headers: str) -> Request:
    """A POST of a whole body."""
    return Request(head("POST", path, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers), body)


def get(path: str) -> Request:
    """A GET."""
    return Request(head("GET", path))


def head(method: str, path: str, *headers: str) -> bytes:
    """The head of a request, with its empty line."""
    lines = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", "")
    return "\r\n".join(lines).encode()


def with_id(request_head: bytes, request_id: str) -> bytes:
    """A head with the id that its answer must carry."""
    return b"%bX-Request-Id: %b\r\n\r\n" % (request_head[:-2], request_id.encode())

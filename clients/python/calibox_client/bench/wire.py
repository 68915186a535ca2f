"""HTTP as a load generator needs it: requests built beforehand, one under way per connection, little work per answer.

The SDK's client spends about a millisecond of CPU per call; on the server's machine that would be measured too.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from calibox_client.errors import BadReplyError, ServerUnreachableError
from calibox_client.requests import HttpRequest

_LONGEST_HEAD = 64 * 2**10  # an answer whose head is longer comes from something else


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        status: HTTP status; 0 where the connection broke.
        code: of the problem document; ``ok``, or ``broken`` without an answer.
        latency: seconds since the request was due.
        server_timing: the header of this name, empty without one.
    """

    status: int
    code: str
    latency: float
    server_timing: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    is_secure: bool
    prefix: str  # of the path

    @classmethod
    def of(cls, url: str) -> "Target":
        """The target of a checked address."""
        parts = urlsplit(url)
        is_secure = parts.scheme == "https"
        return cls(parts.hostname or "", parts.port or (443 if is_secure else 80), is_secure, parts.path.rstrip("/"))


def request_bytes(target: Target, request: HttpRequest, headers: Mapping[str, str]) -> bytes:
    """A whole request with a raw body."""
    query = f"?{urlencode(dict(request.query), doseq=True)}" if request.query else ""
    host = f"[{target.host}]" if ":" in target.host else target.host
    content = request.content or b""
    fields = {"Host": f"{host}:{target.port}", **headers, **request.headers, "Content-Length": str(len(content))}
    lines = [f"{request.method} {target.prefix}{request.path}{query} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


class Connection(asyncio.Protocol):
    """One connection that is asked again and again."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self._data = bytearray()
        self.is_open = True

    @classmethod
    async def to(cls, target: Target) -> "Connection":
        """Connects.

        Raises:
            ServerUnreachableError: nobody is there.
        """
        secure = ssl.create_default_context() if target.is_secure else None
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                cls, target.host, target.port, ssl=secure
            )
        except OSError as error:
            raise ServerUnreachableError(f"{target.host}:{target.port} cannot be reached: {error}") from error
        return connection

    async def ask(self, request: bytes, due: float) -> Answer:
        """Sends a request and waits for its answer; a connection that breaks is an answer too.

        Args:
            request: whole.
            due: when it was to be sent, on the clock of `time.perf_counter`.
        """
        assert self._transport is not None
        self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            status, head, body = await self._reply
        except ConnectionError:
            return Answer(0, "broken", time.perf_counter() - due)
        latency = time.perf_counter() - due
        return Answer(status, "ok" if status == 200 else _code(body), latency, _field(head, b"server-timing"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to be asked."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Gives the answer out when its last byte is there."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > _LONGEST_HEAD:
                self._fail(BadReplyError("what answers speaks no HTTP"))
            return
        head = bytes(self._data[:end]).lower()
        length = _field(head, b"content-length")
        if not head.startswith(b"http/1.") or not length.isdigit():
            self._fail(BadReplyError("what answers sends no Content-Length; is it a calibox server?"))
        elif len(self._data) >= end + 4 + int(length):
            body = bytes(self._data[end + 4 : end + 4 + int(length)])
            self._data.clear()
            self._finish(int(head[9:12]), head, body)

    def connection_lost(self, _: Exception | None) -> None:
        """The server closed."""
        self.is_open = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ConnectionResetError())

    def close(self) -> None:
        """Closes the connection at once; TLS would wait for the server to take its leave."""
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, status: int, head: bytes, body: bytes) -> None:
        if _field(head, b"connection") == "close":
            self.is_open = False
        if self._reply is not None and not self._reply.done():
            self._reply.set_result((status, head, body))

    def _fail(self, error: Exception) -> None:
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)
        self.close()


def _field(head: bytes, name: bytes) -> str:
    """A header's value from the head in small letters; empty without one."""
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip().decode("latin-1") if found else ""


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["code"])
    except (ValueError, KeyError, TypeError):
        return "unknown"

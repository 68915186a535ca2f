"""Limits of a connection, below HTTP's answers: what a head may hold, how slowly anything may come, how many are open.

Nothing here runs per request but a few additions; slowness is looked for from outside, by `Sweeper`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from itertools import chain
from typing import Any, Protocol

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from calibox_server import errors
from calibox_server.errors import (
    AddressTooLongError,
    HeadersTooLargeError,
    MalformedRequestError,
    ServiceError,
    SlowRequestError,
    TooManyConnectionsError,
)
from calibox_server.joined import Joined
from calibox_server.options import Options
from calibox_server.server_timing import in_ms, server_timing
from calibox_server.trace_context import new_request_id

log = structlog.get_logger()

# After a refusal what still comes is read and thrown away for so long: closed at once, the connection would be reset,
# and the caller might lose the answer. A caller over the limit of connections gets as long to send its head.
LINGER_S = 2.0
SWEEPS_S = (0.1, 1.0)  # shortest and longest time between two looks at the connections
LEAVING = "leaving"  # where a request's scope has the connection's `Leaving`
_LINE_OVERHEAD = 4  # bytes of a header beside its name and value: colon, space, CR, LF


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one connection. Sizes in bytes, times in seconds."""

    url: int
    headers: int
    header_count: int
    connections: int
    grace: float
    rate: float  # bytes per second; 0: any
    idle: float

    @classmethod
    def of(cls, settings: Options) -> "Limits":
        """What the settings say."""
        return cls(
            url=settings.max_url_bytes,
            headers=settings.max_header_bytes,
            header_count=settings.max_headers,
            connections=settings.max_connections,
            grace=settings.slow_grace_s,
            rate=settings.min_upload_rate,
            idle=settings.keep_alive_s,
        )

    def time_for(self, received: int) -> float:
        """The longest that a body may have taken of which so many bytes came."""
        return self.grace + received / self.rate if self.rate else float("inf")


class Leaving:
    """Whether a connection was lost, and who wants to hear of it at once; lies in the scopes of its requests."""

    __slots__ = ("happened", "listeners")

    def __init__(self) -> None:
        self.happened = False
        self.listeners: set[Callable[[], object]] = set()

    def happen(self) -> None:
        """It was lost."""
        self.happened = True
        for listener in tuple(self.listeners):
            listener()


class Exchange(Protocol):
    """A request that is answered without the application: uvicorn's cycle, and what it is told of the body."""

    response_complete: bool

    def start(self) -> None:
        """It is the connection's from now on; the caller may be answered before this returns."""

    def leave(self) -> None:
        """The client left before it was answered."""

    def take(self, chunk: bytes) -> None:
        """A piece of the body came."""

    def complete(self) -> None:
        """The body is whole."""

    def set_exception(self, exception: BaseException, /) -> None:
        """The body will not be read to its end; the caller is told why."""

    def give_up(self) -> None:
        """The time of a server that stops is over; the caller is told so."""


class Begin(Protocol):
    """Makes an exchange."""

    def __call__(self, connection: "Connection", /) -> Exchange | None:
        """Of the request whose head was read; None where it is the application's."""


def nothing_begins(_: "Connection") -> None:
    """Where all requests are the application's."""


class Connection(HttpToolsProtocol):
    """Uvicorn's connection with limits, and with requests that never reach the application.

    Args:
        limits: of every connection.
        on_refused: called with the code of the error that ended a connection.
        begin: asked for the exchange of every request that is not behind another one.
        arguments: as uvicorn gives them.
    """

    def __init__(
        self, limits: Limits, on_refused: Callable[[str], None], begin: Begin = nothing_begins, **arguments: Any
    ) -> None:
        super().__init__(**arguments)
        self._limits = limits
        self._on_refused = on_refused
        self._begin = begin
        self._exchange: Exchange | None = None  # of the request that comes in now
        self._begun: Exchange | None = None  # the last; requests behind one whose answer is awaited begin none
        self._refusal: ServiceError | None = None
        self._leaving = Leaving()
        self._since = self.loop.time()  # when the phase began: idle, head, body, or lingering
        self._received = 0  # bytes since the request began
        self._chunk = 0  # bytes that came last
        self._in_head = self._in_body = self._over = self._warned = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One connection more; over the limit, it is refused once it has said what it wants."""
        super().connection_made(transport)
        self._answers = Joined(transport, self.loop)
        self._over = len(self.connections) > self._limits.connections

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed, by whomever."""
        super().connection_lost(exc)
        self._leaving.happen()
        if (exchange := self.exchanging) is not None:
            exchange.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._refusal is not None:
            return
        self._chunk = len(data)
        self._received += self._chunk
        super().data_received(data)
        # A header without an end never reaches `on_headers_complete`.
        if self._in_head and self._received > self._limits.headers + self._limits.url:
            self.refuse(self._headers_too_large())

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self.scope[LEAVING] = self._leaving  # type: ignore[literal-required]
        self._exchange = None
        self._since, self._received = self.loop.time(), self._chunk
        self._in_head, self._in_body, self._warned = True, False, False

    def on_headers_complete(self) -> None:
        """The head is whole.

        Raises:
            ServiceError: it is over a limit; the parser ends and `send_400_response` answers.
        """
        self._in_head, self._in_body = False, True
        if self._over:
            self._refusal = TooManyConnectionsError(
                f"{self._limits.connections} connections are open, as many as this server keeps; try again later"
            )
        elif len(self.url) > self._limits.url:
            self._refusal = AddressTooLongError(
                f"path and query have {len(self.url)} bytes; this server reads at most {self._limits.url}, send "
                "parameters as form fields or JSON"
            )
        elif (
            len(self.headers) > self._limits.header_count
            or sum(map(len, chain.from_iterable(self.headers))) + _LINE_OVERHEAD * len(self.headers)
            > self._limits.headers
        ):
            self._refusal = self._headers_too_large()
        if self._refusal is not None:
            raise self._refusal
        if self.cycle is None or self.cycle.response_complete:
            self._exchange = self._begin(self)
        if self._exchange is not None:
            self.cycle = self._begun = self._exchange  # type: ignore[assignment]
            self._exchange.start()
            return
        super().on_headers_complete()
        if self.cycle is not None:
            self.cycle.transport = self._answers  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self._exchange is None:
            super().on_body(body)
        elif not self._exchange.response_complete:
            self._exchange.take(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        if self._exchange is None:
            super().on_message_complete()
        elif not self._exchange.response_complete:
            self._exchange.complete()
        self._in_body, self._since = False, self.loop.time()

    def on_response_complete(self) -> None:
        """A request was answered. What is idle then is closed by `sweep`: a timer for each answer costs more."""
        self._since = self.loop.time()
        if self._exchange is None or self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()

    @property
    def exchanging(self) -> Exchange | None:
        """The exchange that has no answer yet."""
        begun = self._begun
        return begun if begun is not None and not begun.response_complete else None

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser could not read, or what is over a limit."""
        refusal, self._refusal = self._refusal, None
        self.refuse(refusal or MalformedRequestError(f"this is not HTTP as it can be read here: {msg}"))

    def refuse(self, error: ServiceError) -> None:
        """Answers with an error, takes nothing more and closes a little later."""
        if self._refusal is not None:
            return
        began, self._since = self._since, self.loop.time()
        self._refusal = error
        self._in_head = self._in_body = False
        self._on_refused(error.code)
        log.info("connection_refused", code=error.code, client=self.client and self.client[0])
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an answer is under way on it; a second one would mix with it
            return
        self.transport.write(_answer(error, self._since - began))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def sweep(self, now: float) -> None:
        """Ends the connection where it is slower than the limits allow."""
        waited = now - self._since
        limits = self._limits
        if self.transport.is_closing():
            return
        if self._refusal is not None:
            if waited > LINGER_S:
                self.transport.close()
        elif self._in_head:
            if waited > (LINGER_S if self._over else limits.grace):
                self.refuse(SlowRequestError(f"the headers were not complete after {waited:.1f} s; send them at once"))
        elif self._in_body:
            self._sweep_body(now, waited)
        elif self._is_idle and waited > (LINGER_S if self._over else limits.idle):
            self.transport.close()

    @property
    def _is_idle(self) -> bool:
        """Whether it waits for a request, and uvicorn's own timer does not watch."""
        return self.cycle is None or (self.cycle.response_complete and self.timeout_keep_alive_task is None)

    def _sweep_body(self, now: float, waited: float) -> None:
        if self.flow.read_paused:  # this server does not read: not the caller's fault
            self._since, self._received = now, 0
        elif waited > self._limits.time_for(self._received):
            if self.cycle.response_complete or self._warned:
                self.transport.close()
                return
            self._warned = True
            sentence = (
                f"{self._received} bytes of the request came in {waited:.1f} s; after {self._limits.grace:g} s this "
                f"server wants {self._limits.rate} bytes per second"
            )
            error = SlowRequestError(sentence)
            if self._exchange is not None:
                self._exchange.set_exception(error)
                return
            # Whoever reads the body sees the caller leave, and may take it back to answer; see `took_too_long`.
            self.cycle.scope["too_slow"] = partial(self._take_back, error)  # type: ignore[typeddict-unknown-key]
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _take_back(self, error: SlowRequestError) -> SlowRequestError:
        self.cycle.disconnected = self.cycle.keep_alive = False
        return error

    def _headers_too_large(self) -> HeadersTooLargeError:
        return HeadersTooLargeError(
            f"this server reads at most {self._limits.header_count} headers of together {self._limits.headers} bytes"
        )


class Sweeper:
    """Looks at every connection now and then.

    Args:
        grace: of the limits; the looks are frequent enough to keep it within a tenth.
    """

    def __init__(self, grace: float) -> None:
        low, high = SWEEPS_S
        self._period = min(high, max(low, grace / 10))
        self._next = 0.0

    def look(self, connections: set[Any], now: float) -> None:
        """Ends those that are too slow."""
        if now < self._next:
            return
        self._next = now + self._period
        for connection in list(connections):
            if isinstance(connection, Connection):
                connection.sweep(now)


def took_too_long(scope: Any) -> SlowRequestError | None:
    """Why a body ended early, where it was for its slowness; the caller is still there and gets the answer."""
    take_back: Callable[[], SlowRequestError] | None = scope.get("too_slow")
    return take_back() if take_back is not None else None


def _answer(error: ServiceError, seconds: float) -> bytes:
    request_id = new_request_id()
    body = orjson.dumps(errors.problem(error, request_id))
    headers = {
        "content-type": errors.PROBLEM_TYPE,
        "content-length": str(len(body)),
        "connection": "close",
        "x-request-id": request_id,
        "server-timing": server_timing({"total": in_ms(seconds)}),
        **{name.lower(): value for name, value in error.headers.items()},
    }
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{n}: {v}" for n, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body

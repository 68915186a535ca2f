"""Requests for detection that their connection answers itself: one image as the body of a `POST`.

So come nearly all of them, and ASGI's messages, scopes and layers around one were half of what the event loop did for
it. What the application does to a request is done here by the same functions. Whatever is asked in another way takes
the application's.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httptools
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from calibox_server.access_log import AccessLog
from calibox_server.connections import Connection
from calibox_server.errors import PROBLEM_TYPE, ServiceError, stopped_early
from calibox_server.guard import Guard
from calibox_server.outermost import (
    CLIENT_CLOSED,
    CLIENT_CLOSED_CODE,
    as_service_error,
    headers_of,
    new_record,
    note_status,
    problem_document,
)
from calibox_server.records import KEY
from calibox_server.requests import (
    DetectRequest,
    check_announced,
    check_read,
    given_in,
    image_request,
    is_image,
)
from calibox_server.service import Answer, Service

PATH = "/v1/detect"
_ADDRESS = PATH.encode()
_JSON = (b"content-type", b"application/json")
_PROBLEM = (b"content-type", PROBLEM_TYPE.encode())
# A request with one of them takes the application's way: something is to be done for it that is not done here.
_ASK_FOR_MORE = frozenset({b"content-encoding", b"expect", b"origin", b"upgrade"})


class Exchanges:
    """Begins exchanges.

    Args:
        service: that detects.
        guard: who lets requests in, if anybody does.
        access_log: gets a line per request, if it is enabled.
    """

    def __init__(self, service: Service, guard: Guard | None, access_log: AccessLog) -> None:
        self.service = service
        self.guard = guard
        self.write_log = access_log.write if access_log.enabled else None

    def begin(self, connection: Connection) -> "Exchange | None":
        """The exchange of the request whose head was read, or None where it is the application's."""
        path, _, query = connection.url.partition(b"?")
        parser = connection.parser
        if path != _ADDRESS or parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return None
        kind = length = b""
        for name, value in connection.headers:
            if name in _ASK_FOR_MORE:
                return None
            if name == b"content-type":
                kind = kind or value
            elif name == b"content-length":
                length = value
        if connection.flow.write_paused or not is_image(kind.decode("latin-1")):
            return None
        query = (httptools.parse_url(connection.url).query or b"") if query else b""
        return Exchange(self, connection, query, length.decode("latin-1"))


class Unheard:
    """What uvicorn would wake; here nobody sleeps."""

    def set(self) -> None:
        """Does nothing."""


class Exchange:
    """One request and its answer, where uvicorn has its cycle; itself told what was found for it, as a future is.

    Args:
        exchanges: who began it.
        connection: that it came on; its head was read.
        query: of its address.
        announced: the header `Content-Length`.
    """

    __slots__ = (
        "_announced",
        "_asgi",
        "_chunks",
        "_connection",
        "_exchanges",
        "_metrics",
        "_query",
        "_record",
        "_route",
        "_size",
        "_take_back",
        "_task",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    message_event = Unheard()

    def __init__(self, exchanges: Exchanges, connection: Connection, query: bytes, announced: str) -> None:
        self._exchanges = exchanges
        self._connection = connection
        self._announced = announced
        self._query = query
        self._metrics = exchanges.service.metrics
        self._record = new_record(connection.headers)
        self._asgi = connection.scope  # the connection has another one once the next request begins
        self._route = ""  # the address in the metrics: callers who are not let in get to none
        self.keep_alive = connection.parser.should_keep_alive()
        self.disconnected = self.response_complete = False  # uvicorn sets the first, and asks for the second
        self._chunks: list[bytes] = []
        self._size = 0
        self._take_back: Callable[[], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Lets the request in, or refuses it before its body is read."""
        self._metrics.in_flight += 1
        exchanges = self._exchanges
        try:
            if exchanges.guard is not None:
                exchanges.guard.let_in(self._scope, self._record)
            self._route = PATH
            exchanges.service.check_door(self._query)
            check_announced(self._announced, exchanges.service.settings.max_bytes)
        except Exception as error:
            self.set_exception(error)

    def take(self, chunk: bytes) -> None:
        """A piece of the body came."""
        self._chunks.append(chunk)
        self._size += len(chunk)
        try:
            check_read(self._size, self._exchanges.service.settings.max_bytes)
        except ServiceError as error:
            self.set_exception(error)

    def complete(self) -> None:
        """The body is whole."""
        service, record = self._exchanges.service, self._record
        image, self._chunks = b"".join(self._chunks), []
        try:
            asked = image_request(image, given_in(self._query) if self._query else {})
            record.charge(asked.cost)
            self._take_back = service.answer_soon(asked, record.started, self)
        except Exception as error:
            self.set_exception(error)
            return
        if self._take_back is None and not self.response_complete:
            self._begin_task(self._answer(asked))

    def give_up(self) -> None:
        """The time of a server that stops is over."""
        if self._take_back is not None:
            self._take_back()
        self.set_exception(stopped_early())

    def done(self) -> bool:
        """As a future's."""
        return self.response_complete

    def set_result(self, answer: Answer, /) -> None:
        """As a future's."""
        self._record.note(answer)
        self._metrics.request_ended("ok")
        if self._connection.flow.write_paused:
            self._begin_task(self._end_when_read(answer.body))
        else:
            self._found(answer.body)

    def set_exception(self, exception: BaseException, /) -> None:
        """As a future's."""
        assert isinstance(exception, Exception)
        error = as_service_error(exception)
        self._metrics.request_ended(error.code)
        document = problem_document(error, self._record)
        more = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        self._end(error.status, [*more, *_about(document, _PROBLEM)], document)

    def leave(self) -> None:
        """The client left."""
        self.disconnected = True
        if self._task is not None:
            # Behind the task's first step: one that is cancelled before it begins never comes to its end.
            self._connection.loop.call_soon(self._task.cancel)
            return
        if self._take_back is not None:
            self._take_back()
        self._gone()

    @property
    def _scope(self) -> Scope:
        """Its ASGI scope, for what is shared with the application."""
        return {**self._asgi, "method": "POST", "path": PATH, KEY: self._record}

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = self._connection.loop.create_task(work)
        self._connection.tasks.add(self._task)
        self._task.add_done_callback(self._connection.tasks.discard)

    async def _answer(self, asked: DetectRequest) -> None:
        """For what waits for more than the engine."""
        try:
            answer = await self._exchanges.service.answer(asked, self._record.started, self._record.charge_more)
        except asyncio.CancelledError:
            if self.disconnected:
                self._gone()
            else:
                self.set_exception(stopped_early())
        except Exception as error:
            self.set_exception(error)
        else:
            self.set_result(answer)

    async def _end_when_read(self, body: bytes) -> None:
        """Earlier answers were not taken yet."""
        with suppress(asyncio.CancelledError):  # the client left, or the server stops
            await self._connection.flow.drain()
        self._found(body)

    def _found(self, body: bytes) -> None:
        self._end(HTTPStatus.OK, _about(body, _JSON), body)

    def _gone(self) -> None:
        self._metrics.request_ended(CLIENT_CLOSED_CODE)
        self._end(CLIENT_CLOSED)

    def _end(self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> None:
        """Answers, notes how, and lets the connection go on."""
        connection, record = self._connection, self._record
        note_status(status, record)
        self._metrics.answered(self._route, status)
        self._metrics.in_flight -= 1
        self.response_complete = True
        self._take_back = self._task = None
        if not self.disconnected:
            connection.transport.write(self._bytes(status, headers, body))
            if not self.keep_alive:
                connection.transport.close()
        if self._exchanges.write_log is not None:
            self._exchanges.write_log(self._scope, record)
        connection.on_response_complete()

    def _bytes(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
        """Head and body: one call of the system sends them."""
        parts = [STATUS_LINE[status]]
        for name, value in (*self._connection.server_state.default_headers, *headers, *headers_of(self._record)):
            parts += (name, b": ", value, b"\r\n")
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", body)
        return b"".join(parts)


def _about(body: bytes, kind: tuple[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    return kind, (b"content-length", b"%d" % len(body))

"""Requests for detection that their connection answers itself: one image as the body of a `POST`.

So come nearly all of them, and ASGI's messages, scopes and layers around one were half of what the event loop did for
it. What the application does to a request is done here by the same functions. Whatever is asked in another way takes
the application's.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import httptools
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from calibox_server.access_log import AccessLog
from calibox_server.connections import LEAVING, Connection
from calibox_server.endings import Counted
from calibox_server.errors import ServiceError
from calibox_server.guard import Guard
from calibox_server.outermost import (
    CLIENT_CLOSED,
    as_service_error,
    error_response,
    headers_of,
    new_record,
    note_status,
)
from calibox_server.records import KEY
from calibox_server.requests import check_announced, check_read, given_in, image_request, is_image, kind_of
from calibox_server.service import Service

PATH = "/v1/detect"
_ADDRESS = PATH.encode()
_JSON = (b"content-type", b"application/json")
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
        if connection.flow.write_paused or not is_image(kind_of(kind.decode("latin-1"))):
            return None
        exchange = Exchange(self, connection, (httptools.parse_url(connection.url).query or b"") if query else b"")
        exchange.start(length.decode("latin-1"))
        return exchange


class Unheard:
    """What uvicorn would wake; here nobody sleeps."""

    def set(self) -> None:
        """Does nothing."""


class Exchange:
    """One request and its answer, where uvicorn has its cycle.

    Args:
        exchanges: who began it.
        connection: that it came on; its head was read.
        query: of its address.
    """

    __slots__ = (
        "_body",
        "_chunks",
        "_connection",
        "_counted",
        "_exchanges",
        "_metrics",
        "_query",
        "_record",
        "_size",
        "_task",
        "disconnected",
        "keep_alive",
        "response_complete",
        "scope",
    )
    message_event = Unheard()

    def __init__(self, exchanges: Exchanges, connection: Connection, query: bytes) -> None:
        self._exchanges = exchanges
        self._connection = connection
        self._query = query
        self._metrics = exchanges.service.metrics
        self._record = new_record(connection.headers)
        self.scope: dict[str, Any] = {**connection.scope, "method": "POST", "path": PATH, KEY: self._record}
        self.keep_alive = connection.parser.should_keep_alive()
        self.disconnected = self.response_complete = False  # uvicorn sets the first, and asks for the second
        self._chunks: list[bytes] = []
        self._size = 0
        self._counted = ""  # the address in the metrics: callers who are not let in get to none
        self._body: asyncio.Future[None] = connection.loop.create_future()
        self._task: asyncio.Task[None] | None = None

    def start(self, announced: str) -> None:
        """Lets the request in, or refuses it before its body is read.

        Args:
            announced: the header `Content-Length`.
        """
        self._metrics.in_flight += 1
        exchanges, connection = self._exchanges, self._connection
        try:
            if exchanges.guard is not None:
                exchanges.guard.let_in(self.scope, self._record)
            self._counted = PATH
            exchanges.service.check_door(self._query)
            check_announced(announced, exchanges.service.settings.max_bytes)
        except Exception as error:
            self._body.cancel()
            refusal = as_service_error(error)
            self._metrics.request_ended(refusal.code)
            self._refuse(refusal)
            return
        self._task = connection.loop.create_task(self._run())
        connection.tasks.add(self._task)
        self.scope[LEAVING].listeners.add(self._leave)

    def take(self, chunk: bytes) -> None:
        """A piece of the body came."""
        if self._body.done():
            return
        self._chunks.append(chunk)
        self._size += len(chunk)
        try:
            check_read(self._size, self._exchanges.service.settings.max_bytes)
        except ServiceError as error:
            self.fail(error)

    def complete(self) -> None:
        """The body is whole."""
        if not self._body.done():
            self._body.set_result(None)

    def fail(self, error: ServiceError) -> None:
        """The body will not be read to its end; the caller is told why."""
        if not self._body.done():
            self._body.set_exception(error)

    def _leave(self) -> None:
        """The client left."""
        assert self._task is not None  # it is listened for since then
        self.disconnected = True
        # Behind the task's first step: one that is cancelled before it begins never comes to its end.
        self._connection.loop.call_soon(self._task.cancel)

    async def _run(self) -> None:
        try:
            with Counted(self._metrics):
                body = await self._detect()
            self._end(HTTPStatus.OK, (_JSON, (b"content-length", b"%d" % len(body))), body)
        except ClientDisconnect:
            self._end(CLIENT_CLOSED)
        except Exception as error:
            self._refuse(as_service_error(error))
        self._connection.tasks.discard(self._task)
        self.scope[LEAVING].listeners.discard(self._leave)

    async def _detect(self) -> bytes:
        service, record = self._exchanges.service, self._record
        try:
            await self._body
            image, self._chunks = b"".join(self._chunks), []
            asked = image_request(image, given_in(self._query) if self._query else {})
            record.charge(asked.cost)
            answer = await service.answer(asked, record.started, record.charge_more)
            if self._connection.flow.write_paused:  # earlier answers were not taken yet
                await self._connection.flow.drain()
        except asyncio.CancelledError:
            if self.disconnected:
                raise ClientDisconnect from None
            raise
        record.note(answer)
        return answer.body

    def _refuse(self, error: ServiceError) -> None:
        response = error_response(error, self.scope)
        self._end(response.status_code, response.raw_headers, bytes(response.body))

    def _end(self, status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> None:
        """Answers, notes how, and lets the connection go on."""
        connection, record = self._connection, self._record
        note_status(status, record)
        self._metrics.answered(self._counted, record.status)
        self._metrics.in_flight -= 1
        self.response_complete = True
        if not self.disconnected:
            connection.transport.write(self._bytes(status, headers, body))
            if not self.keep_alive:
                connection.transport.close()
        if self._exchanges.write_log is not None:
            self._exchanges.write_log(self.scope, record)
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

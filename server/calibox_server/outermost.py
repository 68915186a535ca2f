"""What happens to every HTTP request, whatever answers it: id, `Server-Timing`, counts, a log line, errors."""

import re
from typing import Any

import orjson
import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calibox_server import errors
from calibox_server.access_log import AccessLog
from calibox_server.engine_runner import clock
from calibox_server.errors import ServiceError
from calibox_server.metrics import Metrics
from calibox_server.records import KEY, Record, record_of
from calibox_server.server_timing import in_ms, server_timing
from calibox_server.trace_context import new_request_id, trace_id

log = structlog.get_logger()

CLIENT_CLOSED = 499  # nginx's number for a caller that left; nobody receives it, it only marks the end
CLIENT_CLOSED_CODE = "client_closed"
_FIRST_ERROR = 400
OPEN_INFERENCE = "/v2/"  # what lies below speaks a protocol that has its own form of errors
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class OutermostMiddleware:
    """Gives every request a `Record` and an id, the client's own where it sends a plain one, and every error an answer.

    Args:
        app: the rest.
        metrics: counts the answers.
        access_log: gets a line per request, if it is enabled.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: AccessLog) -> None:
        self._app = app
        self._metrics = metrics
        self._write_log = access_log.write if access_log.enabled else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        record = scope[KEY] = new_record(scope["headers"])
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return

        async def send_finished(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._answer_starts(scope, record, message)
            await send(message)

        self._metrics.in_flight += 1
        try:
            await self._app(scope, receive, send_finished)
        except Exception as error:
            if record.status:
                raise
            # Answered here: the web server would answer in its own form, or cut the connection.
            await error_response(as_service_error(error), scope)(scope, receive, send_finished)
        finally:
            self._metrics.in_flight -= 1
            if self._write_log is not None:
                self._write_log(scope, record)

    def _answer_starts(self, scope: Scope, record: Record, message: Message) -> None:
        note_status(message["status"], record)
        route: Any = scope.get("route")  # FastAPI sets it; its template keeps the number of series bounded
        self._metrics.answered(getattr(route, "path", ""), record.status)
        message["headers"] = [*message.get("headers", ()), *headers_of(record)]


def note_status(status: int, record: Record) -> None:
    """Notes what the answer begins with."""
    record.status = status
    if status == CLIENT_CLOSED:
        record.code = record.code or CLIENT_CLOSED_CODE
    elif not record.code:
        record.code = "ok" if status < _FIRST_ERROR else errors.from_status(status, "").code


def headers_of(record: Record) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that every answer has."""
    stages = record.stages_ms or {"total": in_ms(clock() - record.started)}
    return (
        (b"x-request-id", record.request_id.encode()),
        (b"server-timing", server_timing(stages, record.batch).encode()),
    )


def new_record(headers: list[tuple[bytes, bytes]]) -> Record:
    """The record of a request with these headers, with the ids that they carry where those are well formed."""
    request_id, trace = "", ""
    for name, value in headers:
        if name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"traceparent":
            trace = trace_id(value.decode("latin-1"))
    if not request_id or not _REQUEST_ID.fullmatch(request_id):
        request_id = new_request_id()
    return Record(request_id, trace)


def note_error(error: ServiceError, record: Record) -> None:
    """Notes how a request ended; what the server itself did wrong is logged with its cause."""
    record.code = record.code or error.code
    if error.__cause__ is not None and error.status >= 500:
        names = {"request_id": record.request_id, **({"trace_id": record.trace_id} if record.trace_id else {})}
        log.error("request_failed", **names, code=error.code, exc_info=error.__cause__)


def error_response(error: ServiceError, scope: Scope) -> Response:
    """The answer for an error, in the form of its address: a problem document, or that of the Open Inference Protocol.

    The error is noted.
    """
    record = record_of(scope)
    if scope["path"].startswith(OPEN_INFERENCE):
        note_error(error, record)
        return Response(orjson.dumps({"error": str(error)}), error.status, error.headers, "application/json")
    return Response(problem_document(error, record), error.status, error.headers, errors.PROBLEM_TYPE)


def problem_document(error: ServiceError, record: Record) -> bytes:
    """The problem document of an error, which is noted."""
    note_error(error, record)
    return orjson.dumps(errors.problem(error, record.request_id, record.trace_id))


def as_service_error(error: Exception) -> ServiceError:
    """The error itself where it is of the tree; else an internal one that has it as its cause."""
    if isinstance(error, ServiceError):
        return error
    unexpected = ServiceError("an unexpected error; the server's log has the reason")
    unexpected.__cause__ = error
    return unexpected

"""What happens to every call over gRPC, whatever answers it: its record, the guard, its log line, its errors."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from starlette.requests import ClientDisconnect

from calibox_server.access_log import AccessLog
from calibox_server.errors import MalformedRequestError, ServiceError
from calibox_server.guard import Guard
from calibox_server.outermost import CLIENT_CLOSED, CLIENT_CLOSED_CODE, as_service_error, new_record, note_error
from calibox_server.records import Record
from calibox_server.server_timing import server_timing
from calibox_server.service import Service
from calibox_server.tracer import Tracer, traced

Context: TypeAlias = Any  # grpc.aio.ServicerContext; gRPC has no types
Method = Callable[[Any, Context, Record], Awaitable[Any]]

NAME = "inference.GRPCInferenceService"
_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself says of a message that is too long
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# Clients with a retry policy wait as long as this trailing field says, in ms.
_PUSHBACK, _RETRY_AFTER = "grpc-retry-pushback-ms", "Retry-After"


class Calls:
    """Turns a method of the service into one of gRPC.

    Args:
        service: answers.
        guard: asked before a call is answered; None lets everybody in.
        access_log: gets a line per call, if it is enabled.
        tracer: makes a span of each call; none where it is None.
    """

    def __init__(
        self, service: Service, guard: Guard | None, access_log: AccessLog, tracer: Tracer | None = None
    ) -> None:
        self._service = service
        self._guard = guard
        self._access_log = access_log
        self._tracer = tracer

    def wrap(
        self, method: Method, parse: Callable[[bytes], Any], *, is_open: bool = False
    ) -> Callable[[bytes, Context], Awaitable[Any]]:
        """The method with everything around it.

        Args:
            method: answers a request.
            parse: makes the request of a message's bytes.
            is_open: never guarded.
        """
        name = method.__name__
        tracer, guard = (None, None) if is_open else (self._tracer, self._guard)  # probes are not traced
        known = {"rpc.system": "grpc", "rpc.service": NAME, "rpc.method": name}

        async def call(data: bytes, context: Context) -> Any:  # noqa: RET503  `abort` never returns
            headers = [_raw(key, value) for key, value in context.invocation_metadata() or ()]
            record, address = new_record(headers), address_of(context.peer())

            async def work() -> Any:
                if guard is not None:
                    self._admit(guard, record, headers, address)
                return await method(_parsed(parse, data), context, record)

            with traced(tracer, f"{NAME}/{name}", headers, record, known) as span:
                answer, failure = await self._outcome(work(), record, name, address)
                if span is not None:
                    span.set_attribute("rpc.grpc.status_code", status_code(failure).value[0])
            if failure is None:
                context.set_trailing_metadata(_trailer(record))
                return answer
            trailer = (*_trailer(record), *trailing_metadata(failure))
            await context.abort(status_code(failure), str(failure), trailer)

        return call

    async def _outcome(
        self, work: Awaitable[Any], record: Record, name: str, address: str
    ) -> tuple[Any, ServiceError | None]:
        """The answer, or the error in its place; noted and logged."""
        answer: Any = None
        failure: ServiceError | None = None
        try:
            answer = await work
        except ClientDisconnect:
            self._finish(record, CLIENT_CLOSED, CLIENT_CLOSED_CODE, name, address)
            raise asyncio.CancelledError from None
        except Exception as error:
            failure = as_service_error(error)
            note_error(failure, record)
        self._finish(record, failure.status if failure else 200, failure.code if failure else "ok", name, address)
        return answer, failure

    def _admit(self, guard: Guard, record: Record, headers: Sequence[tuple[bytes, bytes]], address: str) -> None:
        try:
            guard.bill(record, guard.admit(headers, address))
        except ServiceError as error:
            self._service.metrics.request_ended(error.code)
            raise

    def _finish(self, record: Record, status: int, code: str, name: str, address: str) -> None:
        record.status, record.code = status, code
        if self._access_log.enabled:
            self._access_log.write({"method": "gRPC", "path": name, "client": (address, 0)}, record)


def _trailer(record: Record) -> tuple[tuple[str, str], ...]:
    """What HTTP has in its headers."""
    timing = (("server-timing", server_timing(record.stages_ms, record.batch)),) if record.stages_ms else ()
    return ("x-request-id", record.request_id), *timing


def _parsed(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DecodeError as error:  # gRPC itself would call it an error of the server
        raise MalformedRequestError(f"the message is not one of this method's: {error}") from error


def status_code(error: ServiceError | None) -> grpc.StatusCode:
    """What gRPC calls an error, or that there is none."""
    if error is None:
        return grpc.StatusCode.OK
    return _CODES.get(
        error.status, grpc.StatusCode.INTERNAL if error.status >= 500 else grpc.StatusCode.INVALID_ARGUMENT
    )


def trailing_metadata(error: ServiceError) -> tuple[tuple[str, str], ...]:
    """The stable code of an error, and when to ask again."""
    wait = error.headers.get(_RETRY_AFTER)
    pushback = ((_PUSHBACK, str(1000 * int(wait))),) if wait else ()
    return ("calibox-code", error.code), *pushback


def address_of(peer: str) -> str:
    """The caller's address from gRPC's name for it, such as ``ipv4:10.0.0.1:5000`` or ``ipv6:%5B::1%5D:5000``."""
    kind, _, rest = unquote(peer).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else rest


def _raw(key: str, value: str | bytes) -> tuple[bytes, bytes]:
    return key.encode(), value if isinstance(value, bytes) else value.encode()

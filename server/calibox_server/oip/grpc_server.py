"""The protocol over gRPC, on a port of its own and in the event loop of the web server."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog

from calibox_core.errors import CaliboxError
from calibox_server.access_log import AccessLog
from calibox_server.endings import Counted, unless_cancelled
from calibox_server.guard import Guard
from calibox_server.oip.grpc_calls import NAME, Calls, Context
from calibox_server.oip.grpc_health import Health
from calibox_server.oip.grpc_messages import message, read_infer, write_infer
from calibox_server.oip.inference import check_door, infer
from calibox_server.oip.metadata import is_ready, model_metadata, server_metadata
from calibox_server.oip.requests import InferRequest
from calibox_server.options import ENV_PREFIX, Options
from calibox_server.records import Record
from calibox_server.service import Service
from calibox_server.tls import make_context, renew
from calibox_server.tracer import Tracer

log = structlog.get_logger()

SPARE_CALLS = 64  # beside those that have a place in the queue and as many that are refused: probes and their streams
FLUSH_S = 1.0  # at the end, for answers that are written already


@asynccontextmanager
async def grpc_server(
    service: Service, guard: Guard | None, port: int, tracer: Tracer | None = None
) -> AsyncIterator[int]:
    """Serves inside the block; the requests that are in flight at its end were answered by then.

    Args:
        service: answers.
        guard: asked before a call is answered.
        port: to listen on; 0 takes a free one.
        tracer: makes a span of each call; none where it is None.

    Returns: the port.

    Raises:
        CaliboxError: the port cannot be used.
    """
    settings = service.settings
    server = grpc.aio.server(
        # A message is read whole before it can be refused: this bounds how many lie in memory.
        maximum_concurrent_rpcs=2 * settings.queue_size + SPARE_CALLS,
        options=[
            ("grpc.max_receive_message_length", settings.max_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", settings.max_header_bytes),
            ("grpc.so_reuseport", 0),  # else a second server on this port would take half of the requests
        ],
    )
    server.add_generic_rpc_handlers((_handler(service, guard, tracer), Health(service, (NAME,)).handler()))
    bound = _listen(server, settings, port)
    await server.start()
    log.info("grpc_ready", port=bound)
    try:
        yield bound
    finally:
        await server.stop(FLUSH_S)


def _listen(server: grpc.aio.Server, settings: Options, port: int) -> int:
    host = settings.host or "0.0.0.0"
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if settings.tls_certificate is None:
            bound: int = server.add_insecure_port(address)
        else:
            bound = server.add_secure_port(address, _credentials(settings))
    except RuntimeError as error:
        raise CaliboxError(
            f"gRPC cannot listen on {address}; choose another port with --grpc-port or {ENV_PREFIX}GRPC_PORT"
        ) from error
    return bound


def _credentials(settings: Options) -> grpc.ServerCredentials:
    """The certificates of HTTPS, as their files say when a connection is opened."""

    def read() -> grpc.ServerCertificateConfiguration:
        make_context(settings)  # says what is wrong with the files; gRPC would not
        assert settings.tls_certificate is not None  # `_listen` asked
        chain = settings.tls_certificate.read_bytes()
        key = (settings.tls_key or settings.tls_certificate).read_bytes()
        authority = settings.tls_client_ca.read_bytes() if settings.tls_client_ca else None
        return grpc.ssl_server_certificate_configuration([(key, chain)], authority)

    renewed = renew(settings, read)
    ask_callers = settings.tls_client_ca is not None
    return grpc.dynamic_ssl_server_credentials(renewed.current(), renewed.current, ask_callers)


def _handler(service: Service, guard: Guard | None, tracer: Tracer | None) -> grpc.GenericRpcHandler:
    calls, methods = Calls(service, guard, AccessLog(service.settings), tracer), Methods(service)
    handlers = {}
    for name in ("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelInfer"):
        is_open = name in ("ServerLive", "ServerReady")  # as are the addresses for health
        handlers[name] = grpc.unary_unary_rpc_method_handler(
            calls.wrap(getattr(methods, name), message(f"{name}Request").FromString, is_open=is_open),
            response_serializer=message(f"{name}Response").SerializeToString,
        )
    return grpc.method_handlers_generic_handler(NAME, handlers)


class Methods:
    """The methods of the protocol, by the names that it gives them."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def ServerLive(self, _: Any, __: Context, ___: Record) -> Any:
        """Whether the process answers."""
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, _: Any, __: Context, ___: Record) -> Any:
        """Whether requests should be sent here."""
        return message("ServerReadyResponse")(ready=not self._service.stopping)

    async def ServerMetadata(self, _: Any, __: Context, ___: Record) -> Any:
        """Name, version and extensions."""
        return message("ServerMetadataResponse")(**server_metadata())

    async def ModelReady(self, request: Any, _: Context, __: Record) -> Any:
        """Whether requests for one model are taken."""
        return message("ModelReadyResponse")(ready=is_ready(self._service, request.name, request.version))

    async def ModelMetadata(self, request: Any, _: Context, __: Record) -> Any:
        """Versions and tensors of one model."""
        return message("ModelMetadataResponse")(**model_metadata(self._service, request.name, request.version))

    async def ModelInfer(self, request: Any, context: Context, record: Record) -> Any:
        """Tensors to tensors."""
        with Counted(self._service.metrics):
            work = self._infer(request, context, record)
            return await unless_cancelled(work, by_server=lambda: self._service.stopping)

    async def _infer(self, request: Any, context: Context, record: Record) -> Any:
        service, model, version = self._service, request.model_name, request.model_version
        check_door(service, model, version)
        asked = await self._read(request)
        left = context.time_remaining()
        time_left = math.inf if left is None else left
        answer = await infer(service, model, version, asked, record, time_left=time_left)
        return write_infer(answer)

    async def _read(self, request: Any) -> InferRequest:
        if request.raw_input_contents:
            return read_infer(request)
        # Typed contents are values one by one: an image takes tens of milliseconds.
        return await asyncio.get_running_loop().run_in_executor(self._service.decoders, read_infer, request)

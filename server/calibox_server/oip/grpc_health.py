"""The health service that load balancers and probes ask over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc

from calibox_server.oip.grpc_messages import MESSAGES
from calibox_server.service import Service

HEALTH = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
_LOOK_S = 1.0  # how often a stream looks whether the server stops


class Health:
    """Tells whether the server takes requests.

    Args:
        service: asked.
        names: of the services that are known, beside the empty name of the server as a whole.
    """

    def __init__(self, service: Service, names: tuple[str, ...]) -> None:
        self._service = service
        self._names = ("", *names)

    def handler(self) -> grpc.GenericRpcHandler:
        """Both methods, to be added to a server."""
        request, response = (MESSAGES[f"grpc.health.v1.HealthCheck{kind}"] for kind in ("Request", "Response"))
        codec = {"request_deserializer": request.FromString, "response_serializer": response.SerializeToString}
        methods = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, **codec),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, **codec),
        }
        return grpc.method_handlers_generic_handler(HEALTH, methods)

    async def _check(self, request: Any, context: grpc.aio.ServicerContext) -> Any:
        if request.service not in self._names:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r:.60}")
        return self._answer(request.service)

    async def _watch(self, request: Any, _: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        while not self._service.stopping:
            yield self._answer(request.service)
            while not self._service.stopping:
                await asyncio.sleep(_LOOK_S)
        yield self._answer(request.service)

    def _answer(self, name: str) -> Any:
        status = NOT_SERVING if self._service.stopping else SERVING
        return MESSAGES["grpc.health.v1.HealthCheckResponse"](status=status if name in self._names else SERVICE_UNKNOWN)

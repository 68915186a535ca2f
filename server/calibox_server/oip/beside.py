"""The gRPC server beside the web server, where the settings ask for it. Imports nothing of gRPC where they do not."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from calibox_server.guard import Guard
from calibox_server.service import Service
from calibox_server.tracer import Tracer


@asynccontextmanager
async def grpc_beside(
    app: FastAPI, service: Service, guard: Guard | None, tracer: Tracer | None
) -> AsyncIterator[None]:
    """Serves gRPC inside the block, if a port is set; ``app.state.grpc_port`` is the one that it listens on."""
    if service.settings.grpc_port is None:
        yield
        return
    from calibox_server.oip.grpc_server import grpc_server

    async with grpc_server(service, guard, service.settings.grpc_port, tracer) as app.state.grpc_port:
        yield

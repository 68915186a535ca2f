"""The HTTP surface. A route reads, calls the service, writes; every error leaves as `application/problem+json`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from calibox_core import __version__
from calibox_server import answers, errors
from calibox_server.access_log import AccessLog
from calibox_server.admin import add_admin
from calibox_server.cors import add_cors
from calibox_server.endings import Counted, unless_client_leaves
from calibox_server.errors import ServiceError
from calibox_server.guard import add_guard
from calibox_server.oip.beside import grpc_beside
from calibox_server.oip.http import add_open_inference
from calibox_server.openapi import DESCRIPTION, detect_operation, problem_responses
from calibox_server.outermost import CLIENT_CLOSED, OutermostMiddleware, error_response
from calibox_server.page.routes import add_page
from calibox_server.records import record_of
from calibox_server.service import Service
from calibox_server.stream import add_stream
from calibox_server.tracing import add_tracing


def build_app(service: Service) -> FastAPI:
    """The application that serves ``service`` and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.begin()
        async with grpc_beside(app, service, guard):
            yield
            await service.close()

    app = FastAPI(
        title="calibox",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours knows the stages, and costs less
        exception_handlers={ServiceError: _problem, HTTPException: _framework_problem},
    )
    # From the innermost to the outermost; what is off is not there.
    guard = add_guard(app, service)
    add_tracing(app, service)
    app.add_middleware(OutermostMiddleware, metrics=service.metrics, access_log=AccessLog(service.settings))
    add_cors(app, service)
    _add_detection(app, service)
    _add_models(app, service)
    _add_health(app, service)
    add_page(app, service)
    add_admin(app, service)
    add_open_inference(app, service)
    add_stream(app, service)
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    async def detect(request: Request) -> Response:
        record = record_of(request.scope)
        try:
            with Counted(service.metrics):
                asked = await service.read(request)
                record.charge(len(asked.images))
                answer = await unless_client_leaves(request.receive, service.answer(asked, record.started))
                record.images, record.model, record.batch = len(asked.images), answer.model, answer.batch
                record.stages_ms = answer.timing_ms
                return Response(answer.body, media_type="application/json")
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED)

    app.add_api_route(
        "/v1/detect",
        detect,
        methods=["POST"],
        response_model=None,
        summary="Detect objects in one or many images",
        responses=problem_responses(),
        openapi_extra=detect_operation(),
    )


def _add_models(app: FastAPI, service: Service) -> None:
    async def models() -> Response:
        return _json(answers.models_document(service.models))

    async def model(name: str) -> Response:
        return _json(answers.model_document(service.models, name))

    unknown = problem_responses([errors.UnknownModelError])
    app.add_api_route("/v1/models", models, response_model=None, summary="Every model that was found")
    app.add_api_route(
        "/v1/models/{name}", model, response_model=None, responses=unknown, summary="One model's versions and manifests"
    )


def _add_health(app: FastAPI, service: Service) -> None:
    async def livez() -> Response:
        return _json({"status": "alive"})

    async def readyz() -> Response:
        if service.stopping:
            raise errors.StoppingError("the server is stopping; send requests elsewhere")
        return _json({"status": "ready"})

    async def metrics() -> Response:
        text = await asyncio.to_thread(service.metrics.exposition)  # many classes: tens of milliseconds
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    stopping = problem_responses([errors.StoppingError])
    app.add_api_route("/livez", livez, response_model=None, summary="Whether the process answers")
    app.add_api_route(
        "/readyz", readyz, response_model=None, responses=stopping, summary="Whether requests should be sent here"
    )
    app.add_api_route("/metrics", metrics, response_model=None, summary="Prometheus metrics")


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # registered for this class only
    return error_response(error, request.scope)


async def _framework_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for this class only
    detail = f"{request.method} {request.url.path[:100]}: {error.detail}; see /docs for what there is"
    response = await _problem(request, errors.from_status(error.status_code, detail))
    response.headers.update(error.headers or {})
    return response

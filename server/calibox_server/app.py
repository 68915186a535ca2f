"""The HTTP surface. A route reads, calls the service, writes; every error leaves as `application/problem+json`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from calibox_core import __version__
from calibox_server import answers, errors
from calibox_server.access_log import AccessLog
from calibox_server.admin import add_admin
from calibox_server.cors import add_cors
from calibox_server.endings import Counted, unless_client_leaves
from calibox_server.errors import ServiceError
from calibox_server.exchange import PATH, Exchanges
from calibox_server.guard import add_guard
from calibox_server.oip.beside import grpc_beside
from calibox_server.oip.http import add_open_inference
from calibox_server.openapi import DESCRIPTION, DETECTION_PROBLEMS, answers_of, detect_operation, problem_responses
from calibox_server.openapi_document import add_document
from calibox_server.openapi_schemas import MODEL, MODELS, STATUS, TEXT
from calibox_server.outermost import CLIENT_CLOSED, OutermostMiddleware, error_response
from calibox_server.page.routes import add_page
from calibox_server.records import record_of
from calibox_server.reference.routes import add_reference
from calibox_server.service import Service
from calibox_server.shortcut import ShortcutMiddleware
from calibox_server.stream import add_stream
from calibox_server.tracing import add_tracing


class Application(FastAPI):
    """An application whose first layer is our first middleware.

    The framework has three around it, which answer errors, report them and limit bodies: all done further in.
    """

    exchanges: Exchanges | None = None  # what its connections may answer themselves; the same as it would, and sooner

    def add_middleware(self, middleware_class: Any, *arguments: Any, **options: Any) -> None:
        """As the framework's; a layer around everything is around no exchange, so that there are none with it."""
        self.exchanges = None
        super().add_middleware(middleware_class, *arguments, **options)

    def build_middleware_stack(self) -> ASGIApp:
        """What requests go through, from the outermost on."""
        layer = super().build_middleware_stack()
        while not isinstance(layer, self.user_middleware[0].cls):  # type: ignore[arg-type]
            layer = layer.app  # type: ignore[attr-defined]
        return layer


def build_app(service: Service) -> Application:
    """The application that serves ``service`` and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.begin()
        async with grpc_beside(app, service, guard, tracer):
            yield
            await service.close()

    app = Application(
        title="calibox",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours knows the stages, and costs less
        docs_url=None,  # `add_reference`
        redoc_url=None,
        exception_handlers={ServiceError: _problem, HTTPException: _framework_problem},
    )
    # From the innermost to the outermost; what is off is not there.
    _add_detection(app, service)
    guard = add_guard(app, service)
    tracer = add_tracing(app, service)
    access_log = AccessLog(service.settings)
    app.add_middleware(OutermostMiddleware, metrics=service.metrics, access_log=access_log)
    add_cors(app, service)
    _add_models(app, service)
    _add_health(app, service)
    add_page(app, service)
    add_reference(app)
    add_admin(app, service)
    add_open_inference(app, service)
    add_stream(app, service, tracer)
    add_document(app, service)
    if tracer is None and not service.settings.trusted_proxies:  # a span, or another address of the caller
        app.exchanges = Exchanges(service, guard, access_log)
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    async def detect(request: Request) -> Response:
        record = record_of(request.scope)
        try:
            with Counted(service.metrics):
                asked = await service.read(request)
                record.charge(asked.cost)
                work = service.answer(asked, record.started, record.charge_more)
                answer = await unless_client_leaves(request, work)
                record.note(answer)
                return Response(answer.body, media_type="application/json")
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED)

    app.add_api_route(
        PATH,
        detect,
        methods=["POST"],
        response_model=None,
        summary="Detect objects in one or many images",
        responses=problem_responses(DETECTION_PROBLEMS),
        openapi_extra=detect_operation(),
    )
    route = app.routes[-1]
    app.add_middleware(ShortcutMiddleware, path=PATH, method="POST", route=route, endpoint=detect)


def _add_models(app: FastAPI, service: Service) -> None:
    async def models() -> Response:
        return _json(answers.models_document(service.models))

    async def model(name: str) -> Response:
        return _json(answers.model_document(service.models, name))

    app.add_api_route(
        "/v1/models",
        models,
        response_model=None,
        responses=answers_of(MODELS, "The models."),
        summary="Every model that was found",
    )
    app.add_api_route(
        "/v1/models/{name}",
        model,
        response_model=None,
        responses=answers_of(MODEL, "Its versions.", [errors.UnknownModelError]),
        summary="One model's versions and manifests",
    )


def _add_health(app: FastAPI, service: Service) -> None:
    async def livez() -> Response:
        return _json({"status": "alive"})

    async def readyz() -> Response:
        service.check_ready()
        return _json({"status": "ready"})

    async def metrics() -> Response:
        return Response(await service.exposition(), media_type=CONTENT_TYPE_LATEST)

    alive = answers_of(STATUS, "It does.")
    ready = answers_of(STATUS, "They should.", [errors.StoppingError, errors.EngineAwayError])
    text: dict[int | str, dict[str, Any]] = {
        200: {"description": "The metrics.", "content": {"text/plain": {"schema": TEXT}}}
    }
    app.add_api_route("/livez", livez, response_model=None, responses=alive, summary="Whether the process answers")
    app.add_api_route(
        "/readyz", readyz, response_model=None, responses=ready, summary="Whether requests should be sent here"
    )
    app.add_api_route(
        "/metrics", metrics, response_class=PlainTextResponse, responses=text, summary="Prometheus metrics"
    )


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

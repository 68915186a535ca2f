"""The HTTP surface. A route reads, calls the service, writes; every error leaves as `application/problem+json`."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
import structlog
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calibox_core import __version__
from calibox_server import answers, errors
from calibox_server.errors import ServiceError
from calibox_server.openapi import DESCRIPTION, detect_operation, problem_responses
from calibox_server.pipeline import clock
from calibox_server.service import Answer, Service

log = structlog.get_logger()
T = TypeVar("T")

CLIENT_CLOSED = 499  # nginx's number for a caller that left; nobody receives it, it only marks the end
_ids = random.Random()  # names, not secrets; asking the kernel for each would hand the interpreter lock away
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def build_app(service: Service) -> FastAPI:
    """The application that serves ``service`` and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="calibox",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        exception_handlers={ServiceError: _problem, HTTPException: _framework_problem},
    )
    app.add_middleware(OutermostMiddleware)
    _add_detection(app, service)
    _add_models(app, service)
    _add_health(app, service)
    return app


def _add_detection(app: FastAPI, service: Service) -> None:
    async def detect(request: Request) -> Response:
        started, code = clock(), ServiceError.code
        try:
            asked = await service.read(request)
            answer = await _unless_client_leaves(request.receive, service.answer(asked, started))
            code = "ok"
            return _answered(answer)
        except ServiceError as error:
            code = error.code
            raise
        except ClientDisconnect:
            code = "client_closed"
            return Response(status_code=CLIENT_CLOSED)
        except asyncio.CancelledError:
            # The web server gives up what is still running when the drain time is over.
            code = errors.StoppingError.code
            raise errors.StoppingError("the server stopped before the answer was ready; send it again") from None
        finally:
            service.metrics.request_ended(code)

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
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    stopping = problem_responses([errors.StoppingError])
    app.add_api_route("/livez", livez, response_model=None, summary="Whether the process answers")
    app.add_api_route(
        "/readyz", readyz, response_model=None, responses=stopping, summary="Whether requests should be sent here"
    )
    app.add_api_route("/metrics", metrics, response_model=None, summary="Prometheus metrics")


async def _unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits ``work`` and cancels it when the client disconnects; the body was read before.

    Raises:
        ClientDisconnect: the client left.
    """
    task, left = asyncio.current_task(), False
    assert task is not None  # an endpoint always runs in a task

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if left:
            task.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        watcher.cancel()


class OutermostMiddleware:
    """Gives every request an id, the client's own where it sends a plain one, and every unexpected error an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        request_id = sent if _REQUEST_ID.fullmatch(sent) else f"{_ids.getrandbits(64):016x}"
        scope["request_id"] = request_id
        header, started = (b"x-request-id", request_id.encode()), False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if started:
                raise
            # Answered here: the web server would answer in its own form, or cut the connection.
            unexpected = ServiceError("an unexpected error; the server's log has the reason")
            unexpected.__cause__ = error
            await _problem_response(unexpected, request_id)(scope, receive, send_with_id)


def _answered(answer: Answer) -> Response:
    headers = {"Server-Timing": answers.server_timing(answer.timing_ms)}
    return Response(answer.body, media_type="application/json", headers=headers)


def _json(document: dict[str, Any]) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")


def _problem_response(error: ServiceError, request_id: str) -> Response:
    if error.__cause__ is not None and error.status >= 500:
        log.error("request_failed", request_id=request_id, code=error.code, exc_info=error.__cause__)
    return Response(
        orjson.dumps(errors.problem(error, request_id)),
        status_code=error.status,
        headers=error.headers,
        media_type="application/problem+json",
    )


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)  # registered for this class only
    return _problem_response(error, request.scope["request_id"])


async def _framework_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # registered for this class only
    detail = f"{request.method} {request.url.path[:100]}: {error.detail}; see /docs for what there is"
    response = await _problem(request, errors.from_status(error.status_code, detail))
    response.headers.update(error.headers or {})
    return response

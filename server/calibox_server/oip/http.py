"""The protocol over HTTP, at `/v2`. `error_response` gives errors there their own form, ``{"error": sentence}``."""

import asyncio

import orjson
from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from calibox_server.endings import Counted, unless_client_leaves
from calibox_server.oip.http_body import LENGTH_HEADER, json_length, read_infer, write_infer
from calibox_server.oip.inference import check_door, find, infer
from calibox_server.oip.metadata import model_metadata, server_metadata
from calibox_server.oip.requests import InferRequest
from calibox_server.outermost import CLIENT_CLOSED
from calibox_server.records import record_of
from calibox_server.requests import read_body
from calibox_server.service import Service

# JSON up to this length is read on the event loop: 16 KiB of numbers hold it up for 0.2 ms, about as long as a detour
# through a thread. With binary data the JSON is shorter than that.
INLINE_JSON = 16 * 2**10
_MODEL = "/models/{model}"
_VERSION = "/models/{model}/versions/{version}"


def add_open_inference(app: FastAPI, service: Service) -> None:
    """Adds every address of the protocol."""

    async def server(_: Request) -> Response:
        return _json(server_metadata())

    routes = [
        Route("/", server),
        *_health_routes(service),
        *_model_routes(service),
    ]
    app.add_api_route("/v2", server, response_model=None, include_in_schema=False)
    app.mount("/v2", Router(routes, redirect_slashes=False))


def _health_routes(service: Service) -> list[Route]:
    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        return _json({"ready": service.ready}, 200 if service.ready else 503)

    return [Route("/health/live", live), Route("/health/ready", ready)]


def _model_routes(service: Service) -> list[Route]:
    async def metadata(request: Request) -> Response:
        return _json(model_metadata(service, *_target(request)))

    async def ready(request: Request) -> Response:
        name = find(service, *_target(request)).manifest.name
        return _json({"name": name, "ready": service.ready}, 200 if service.ready else 503)

    async def detect(request: Request) -> Response:
        try:
            return await _infer(service, request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED)

    return [
        route
        for path in (_MODEL, _VERSION)
        for route in (
            Route(path, metadata),
            Route(f"{path}/ready", ready),
            Route(f"{path}/infer", detect, methods=["POST"]),
        )
    ]


async def _infer(service: Service, request: Request) -> Response:
    model, version = _target(request)
    with Counted(service.metrics):
        check_door(service, model, version)
        body = await read_body(request, service.settings.max_bytes)
        length = json_length(request.headers.get(LENGTH_HEADER), len(body))
        asked = await _read(service, body, length)
        work = infer(service, model, version, asked, record_of(request.scope))
        answer = await unless_client_leaves(request, work)
    written, length_of_json = write_infer(answer)
    if length_of_json is None:
        return Response(written, media_type="application/json")
    return Response(written, media_type="application/octet-stream", headers={LENGTH_HEADER: str(length_of_json)})


async def _read(service: Service, body: bytes, length: int) -> InferRequest:
    if length <= INLINE_JSON:
        return read_infer(body, length)
    return await asyncio.get_running_loop().run_in_executor(service.decoders, read_infer, body, length)


def _target(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _json(document: dict[str, object], status: int = 200) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")

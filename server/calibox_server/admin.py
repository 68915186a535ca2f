"""Loading, reloading and unloading models over HTTP, and the same in the shape of Triton's repository extension.

Nothing of it exists unless the settings say ``admin``.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from calibox_server import errors
from calibox_server.errors import ServiceError
from calibox_server.oip.openapi import Responses, error_responses
from calibox_server.openapi import answers_of
from calibox_server.openapi_schemas import CHANGE, TEXT, a_list, an_object, json_content
from calibox_server.service import Service
from calibox_server.shelf import Change

_OTHERS = ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]  # methods than POST
MAX_BODY = 64 * 1024  # of what is a flag or two
_ENDS = (errors.UnauthorizedError, errors.UnknownModelError, errors.LoadError, errors.StoppingError)
_ROW = an_object(dict.fromkeys(("name", "version", "state", "reason"), TEXT))
_WANTED = an_object({"ready": {"type": "boolean", "description": "Only what is loaded."}}, "ready")
Operation = Callable[[str, str | None], Awaitable[Change]]


def add_admin(app: FastAPI, service: Service) -> None:
    """The routes, where the settings want them."""
    if not service.settings.admin:
        return
    repository = service.repository

    def reload(name: str, version: str | None) -> Awaitable[Change]:
        return repository.load(name, version, again=True)

    _add_operation(app, "load", repository.load, "Load what the folder has of a model and is not loaded, or changed")
    _add_operation(app, "reload", reload, "Load a model again; the old one answers until the new one is warm")
    _add_operation(app, "unload", repository.unload, "Serve a model no more, once its requests are answered")
    _add_triton(app, service)


def change_document(name: str, change: Change) -> dict[str, Any]:
    """The answer of an operation that went well."""
    return {
        "name": name,
        "loaded": [version for _, version in change.loaded],
        "unloaded": [version for _, version in change.unloaded],
    }


def _add_operation(app: FastAPI, verb: str, operation: Operation, summary: str) -> None:
    async def endpoint(name: str, version: str | None = None) -> Response:
        return _json(change_document(name, await operation(name, version)))

    app.add_api_route(
        f"/v1/models/{{name}}/{verb}",
        endpoint,
        methods=["POST"],
        response_model=None,
        name=verb,
        summary=summary,
        responses=answers_of(CHANGE, "What was done.", _ENDS),
    )


def _add_triton(app: FastAPI, service: Service) -> None:
    """`POST /v2/repository/...` with Triton's own documents; parameters in the body are read over."""
    repository = service.repository

    async def index(request: Request) -> Response:
        wanted = await _document(request)
        rows = repository.index()
        return _json([row for row in rows if row["state"] == "READY" or not wanted.get("ready")])

    async def load(name: str) -> Response:
        return await _as_triton(repository.load(name))

    async def unload(name: str) -> Response:
        return await _as_triton(repository.unload(name))

    changed: Responses = {200: {"description": "Done; the body is empty.", "content": {}}}
    rows: Responses = {200: {"description": "A row per version.", "content": json_content(a_list(_ROW))}}
    bad_body = error_responses([errors.MalformedRequestError, errors.TooManyBytesError])
    for path, endpoint, responses in (
        ("index", index, {**rows, **bad_body}),
        ("models/{name}/load", load, {**changed, **error_responses(_ENDS)}),
        ("models/{name}/unload", unload, {**changed, **error_responses(_ENDS)}),
    ):
        body = {"content": json_content(_WANTED)} if endpoint is index else None
        app.add_api_route(
            f"/v2/repository/{path}",
            endpoint,
            methods=["POST"],
            response_class=Response,
            responses=responses,
            openapi_extra={"requestBody": body} if body else None,
            summary=f"Triton's repository extension: {endpoint.__name__}",
        )
        # Else the address would be looked for among those of the protocol, and not be found.
        app.add_route(f"/v2/repository/{path}", _only_post, methods=_OTHERS, include_in_schema=False)


async def _only_post(_: Request) -> Response:
    raise HTTPException(errors.MethodNotAllowedError.status, headers={"Allow": "POST"})


async def _as_triton(operation: Awaitable[Change]) -> Response:
    try:
        await operation
    except ServiceError as error:
        return _json({"error": str(error)}, error.status)
    return Response(status_code=200)


async def _document(request: Request) -> dict[str, Any]:
    """A JSON object; an empty one where the body is something else, whose keys are all optional anyway."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise errors.TooManyBytesError(f"the body is longer than {MAX_BODY} bytes; it needs no more than a few")
    try:
        document = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError as error:
        raise errors.MalformedRequestError(f"the body is not JSON: {error}") from error
    return document if isinstance(document, dict) else {}


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status_code=status, media_type="application/json")

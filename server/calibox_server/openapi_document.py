"""The OpenAPI document, whole: what the routes say of themselves, the Open Inference Protocol, and what all share."""

from typing import Any

from fastapi import FastAPI

from calibox_server import errors
from calibox_server.errors import ServiceError
from calibox_server.guard import is_open
from calibox_server.oip.openapi import ERROR, paths
from calibox_server.openapi import problem_responses
from calibox_server.openapi_schemas import json_content
from calibox_server.outermost import OPEN_INFERENCE
from calibox_server.service import Service

# What the connection says, whatever is asked: always a problem document.
_EVERYWHERE = (
    errors.MalformedRequestError,
    errors.SlowRequestError,
    errors.AddressTooLongError,
    errors.HeadersTooLargeError,
    ServiceError,
    errors.TooManyConnectionsError,
)
_AT_THE_DOOR = (errors.UnauthorizedError, errors.RateLimitedError)
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


def add_document(app: FastAPI, service: Service) -> None:
    """Makes `/openapi.json` the whole document, once somebody asks for it."""
    keys = bool(service.settings.api_keys or service.settings.api_keys_file)
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = finished(make(), keys=keys)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def finished(document: dict[str, Any], *, keys: bool) -> dict[str, Any]:
    """The same document, changed: with the protocol, and with the answers that every address may give.

    Args:
        document: of FastAPI.
        keys: whether the server asks for keys.
    """
    document["paths"] |= paths()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            _drop_validation(operation)
            _add(operation, _EVERYWHERE, path)
            if not is_open(path):
                _add(operation, _AT_THE_DOOR, path)
                if keys:
                    operation["security"] = [{name: []} for name in _SCHEMES]
    components = document.setdefault("components", {})
    components.pop("schemas", None)  # of FastAPI's own validation, which nothing here uses
    if keys:
        components["securitySchemes"] = _SCHEMES
    return document


def _drop_validation(operation: dict[str, Any]) -> None:
    """FastAPI's own 422, which no parameter here can cause: all are texts."""
    if "HTTPValidationError" in str(operation["responses"].get("422")):
        del operation["responses"]["422"]


def _add(operation: dict[str, Any], ends: tuple[type[ServiceError], ...], path: str) -> None:
    responses = operation["responses"]
    for status, more in problem_responses(ends).items():
        known = responses.setdefault(str(status), {"description": "", "content": {}})
        content = more["content"]
        if path.startswith(OPEN_INFERENCE):
            content = content | json_content(ERROR)
        known["content"] = content | known["content"]
        lacking = [text for text in more["description"].split("; ") if text not in known["description"]]
        known["description"] = "; ".join(filter(None, [known["description"], *lacking]))

"""What is added to Ray Serve's HTTP proxy: a request that lost its replica is told so, and may be sent again.

Ray ends such a request with 500, for it cannot know whether repeating is safe. Detection changes nothing, so that here
it is, and 503 says it: the SDK repeats, and so does every proxy and mesh that is told to.
"""

from collections.abc import Iterable
from http import HTTPStatus

import orjson
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calibox_server import errors
from calibox_server.errors import EngineAwayError

CALLBACK = "calibox_server.on_ray.proxy:middlewares"  # for RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH
_REQUEST_ID = b"x-request-id"
Headers = Iterable[tuple[bytes, bytes]]


def middlewares() -> list[Middleware]:
    """Called by every proxy of Ray Serve that finds `CALLBACK` in its environment."""
    return [Middleware(LostReplicaMiddleware)]


class LostReplicaMiddleware:
    """Answers 503 in the form of every other problem where Ray has no answer, and leaves out what Ray says twice."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = once(message.get("headers", ()))
            await send(message)

        await self._app(scope, receive, send_noted)
        if not started:
            await lost(scope["headers"])(scope, receive, send)


def once(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The headers with one request id, the first: the server's own comes before the one that Ray adds."""
    seen, kept = False, []
    for name, value in headers:
        is_id = name.lower() == _REQUEST_ID
        if not (is_id and seen):
            kept.append((name, value))
        seen = seen or is_id
    return kept


def lost(headers: Headers) -> Response:
    """The answer to a request whose replica ended."""
    error = EngineAwayError("the replica that had this request ended before it answered; send it again")
    request_id = next((value.decode("latin-1") for name, value in headers if name == _REQUEST_ID), "")
    document = orjson.dumps(errors.problem(error, request_id))
    return Response(document, HTTPStatus.SERVICE_UNAVAILABLE, error.headers, errors.PROBLEM_TYPE)

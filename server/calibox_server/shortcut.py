"""The short way to an address: past the layers of the framework that do nothing for it."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from calibox_server.errors import ServiceError
from calibox_server.outermost import error_response


class ShortcutMiddleware:
    """Calls the endpoint of one route itself. Routing, dependencies and exit stacks cost as much as all of ours.

    The innermost of the application's own middlewares: what lies around it holds for the endpoint as for all others.

    Args:
        app: the rest; gets what does not go to the route.
        path: of the route, without parameters.
        method: of the route.
        route: as the router knows it; what counts and traces reads its path.
        endpoint: raises nothing but ServiceError.
    """

    def __init__(
        self, app: ASGIApp, *, path: str, method: str, route: object, endpoint: Callable[[Request], Awaitable[Response]]
    ) -> None:
        self._app = app
        self._path = path
        self._method = method
        self._route = route
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or scope["path"] != self._path or scope["method"] != self._method:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._route
        try:
            response = await self._endpoint(Request(scope, receive))
        except ServiceError as error:
            response = error_response(error, scope)
        await response(scope, receive, send)

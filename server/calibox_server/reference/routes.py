"""Where the pages about the API are reached.

Swagger UI and Redoc come from the package `fastapi-offline`, of which nothing but their files is used: FastAPI's own
pages would fetch them from other hosts.
"""

from functools import cache
from importlib.resources import files

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from calibox_server.errors import NotFoundError
from calibox_server.page.assets import Asset, answer, make_asset

PAGES = {"/docs": "docs.html", "/redoc": "redoc.html"}
OWN = ("docs.html", "docs.js", "redoc.html", "redoc.js")
PACKAGED = ("swagger-ui.css", "swagger-ui-bundle.js", "redoc.standalone.js")
# Both write styles as they go, and show pictures that they carry along; Redoc searches in a worker.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src data:",
        "connect-src 'self'",
        "worker-src blob:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_FOREIGN_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"  # Redoc's only picture from elsewhere


def add_reference(app: FastAPI) -> None:
    """Adds `/docs`, `/redoc` and their files; the application is made without FastAPI's own pages."""

    async def page(request: Request) -> Response:
        return answer(read_asset(PAGES[request.url.path.removeprefix(request.scope.get("root_path", ""))]), request)

    async def asset(request: Request, name: str) -> Response:
        if name not in (*OWN, *PACKAGED):
            raise NotFoundError(f"the pages about the API have no file {name[:60]!r}; they start at /docs and /redoc")
        return answer(read_asset(name), request)

    methods = ["GET", "HEAD"]
    for path in PAGES:
        app.add_api_route(path, page, methods=methods, response_model=None, include_in_schema=False)
    app.add_api_route("/reference/{name}", asset, methods=methods, response_model=None, include_in_schema=False)


@cache  # most servers are never asked for the 3 MB
def read_asset(name: str) -> Asset:
    """One file of the pages."""
    folder = files(__package__) / "static" if name in OWN else files("fastapi_offline") / "static"
    body = (folder / name).read_bytes().replace(_FOREIGN_LOGO, b"data:,")
    return make_asset(name, body, CONTENT_SECURITY_POLICY)

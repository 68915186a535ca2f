"""Where the page and the examples it offers are reached."""

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from calibox_server.errors import NotFoundError, UnknownModelError
from calibox_server.openapi import problem_responses
from calibox_server.page.assets import INDEX, answer, read_assets
from calibox_server.page.examples import find_example
from calibox_server.service import Service

_PICTURE = {"description": "The picture.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
# Whatever a bundle calls its picture: opened by itself, it runs nothing on this address.
_INERT = {"Content-Security-Policy": "default-src 'none'; sandbox", "X-Content-Type-Options": "nosniff"}


def add_page(app: FastAPI, service: Service) -> None:
    """Adds `/`, `/page/{name}` and the models' example pictures, unless the settings switch the page off."""
    if not service.settings.page:
        return
    assets = read_assets()

    async def index(request: Request) -> Response:
        return answer(assets[INDEX], request)

    async def asset(request: Request, name: str) -> Response:
        if name not in assets:
            raise NotFoundError(f"the page has no file {name[:60]!r}; it starts at /")
        return answer(assets[name], request)

    methods = ["GET", "HEAD"]
    app.add_api_route("/", index, methods=methods, response_model=None, include_in_schema=False)
    app.add_api_route("/page/{name}", asset, methods=methods, response_model=None, include_in_schema=False)
    _add_examples(app, service)


def _add_examples(app: FastAPI, service: Service) -> None:
    def example(name: str, version: str | None = None) -> Response:
        manifest = service.models.find(name, version).manifest
        path = find_example(service.settings.models, manifest)
        if path is None:
            raise NotFoundError(f"the bundle {manifest.name}/{manifest.version} brings no example picture")
        return FileResponse(path, filename=path.name, headers=_INERT, content_disposition_type="inline")

    app.add_api_route(
        "/v1/models/{name}/example",
        example,
        response_class=FileResponse,
        responses={200: _PICTURE, **problem_responses([NotFoundError, UnknownModelError])},
        summary="The picture that a model's bundle brings to try it with",
    )

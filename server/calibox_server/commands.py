"""The subcommand `calibox serve`. Its options are the fields of `Options`, so that each is written down once."""

import inspect
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from calibox_core.cli import require_extra
from calibox_server.options import ENV_PREFIX, Options


def serve(**options: Any) -> None:
    """Serve bundles over HTTP: POST /v1/detect, documented at /docs."""
    require_extra("serve", "server", "pydantic_settings", "fastapi", "uvicorn", "orjson", "python_multipart")
    require_extra("serve", "server", "simplejpeg", "cv2", "prometheus_client", "structlog")
    require_extra("serve", "cpu", "onnxruntime")
    from calibox_server.serve import run
    from calibox_server.settings import Settings

    run(Settings(**options), announce=typer.echo)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    option = typer.Option(
        help=field.description,
        envvar=f"{ENV_PREFIX}{name.upper()}",
        min=getattr(bounds.get("Ge"), "ge", None),
        max=getattr(bounds.get("Le"), "le", None),
    )
    annotation: Any = Annotated[field.annotation, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


_OPTIONS = [_option(name, field) for name, field in Options.model_fields.items()]
serve.__signature__ = inspect.Signature(_OPTIONS)  # type: ignore[attr-defined]

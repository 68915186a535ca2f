"""The subcommand `calibox serve`. Its options are the fields of `Settings`, so that each is written down once."""

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibox_core.cli import require_extra

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo


def serve(**options: Any) -> None:
    """Serve bundles over HTTP: POST /v1/detect, documented at /docs."""
    require_extra("serve", "server", "pydantic_settings", "fastapi", "uvicorn", "orjson", "python_multipart")
    require_extra("serve", "server", "simplejpeg", "cv2", "prometheus_client", "structlog")
    require_extra("serve", "server,cpu", "onnxruntime")
    from calibox_server.serve import run
    from calibox_server.settings import Settings

    run(Settings(**options), announce=typer.echo)


def _options() -> list[inspect.Parameter]:
    """One option per setting; none where the extra `server` is absent, so that `calibox --help` still works."""
    try:
        from calibox_server.settings import ENV_PREFIX, Settings
    except ModuleNotFoundError:
        return []
    return [_option(name, field, f"{ENV_PREFIX}{name.upper()}") for name, field in Settings.model_fields.items()]


def _option(name: str, field: "FieldInfo", variable: str) -> inspect.Parameter:
    bounds = {type(bound).__name__: bound for bound in field.metadata}
    low, high = bounds.get("Ge"), bounds.get("Le")
    option = typer.Option(
        help=field.description, envvar=variable, min=getattr(low, "ge", None), max=getattr(high, "le", None)
    )
    annotation = Annotated[field.annotation, option]  # type: ignore[name-defined]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


serve.__signature__ = inspect.Signature(_options())  # type: ignore[attr-defined]

"""The subcommands `calibox serve` and `calibox api-key`.

The options of `serve` are the fields of `Options`, so that each is written down once.
"""

import inspect
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from calibox_core.cli import require_extra
from calibox_server.options import ENV_PREFIX, Options


def serve(context: typer.Context, **options: Any) -> None:
    """Serve bundles over HTTP: POST /v1/detect, documented at /docs."""
    require_extra("serve", "server", "pydantic_settings", "fastapi", "uvicorn", "orjson", "python_multipart")
    require_extra("serve", "server", "simplejpeg", "cv2", "prometheus_client", "structlog", "fastapi_offline")
    require_extra("serve", "cpu", "onnxruntime")
    from calibox_server.settings import load_settings

    # The rest is read from the environment again, and then from the file.
    given = {name: value for name, value in options.items() if _on_the_line(context, name)}
    settings = load_settings(given)
    if settings.grpc_port is not None:
        require_extra("serve", "grpc", "grpc", "google.protobuf")
    if settings.http_workers > 1:
        from calibox_server.workers.supervisor import supervise as run
    else:
        from calibox_server.serve import run
    run(settings, announce=typer.echo)


def api_key(
    name: Annotated[str, typer.Argument(help="Who the key is for; logs and metrics show this name, never the key.")],
) -> None:
    """Make a key for `calibox serve`: print it once, and the line with its hash for the server's file of keys."""
    from calibox_server.keys import make_key

    key, line = make_key(name)
    typer.echo(f"key (for the caller; it is shown only now):        {key}")
    typer.echo(f"line (for the server's file, --api-keys-file):     {line}")


def _on_the_line(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
_CONTEXT = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
serve.__signature__ = inspect.Signature([_CONTEXT, *_OPTIONS])  # type: ignore[attr-defined]

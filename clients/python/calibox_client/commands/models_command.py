"""`calibox models served`."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from calibox_client.commands.failures import command_error, tell_of_retry
from calibox_client.options import ServerOption, key_headers

if TYPE_CHECKING:
    from calibox_client.models import ModelInfo

JsonOption = Annotated[bool, typer.Option("--json", help="Print the server's JSON list, and nothing else.")]


def served(server: ServerOption = "http://127.0.0.1:8000", as_json: JsonOption = False) -> None:
    """Show what a running server serves, and what it found and could not load.

    The exit status is 1 when no model is ready, and 4 when the server cannot be reached.
    """
    from calibox_client.client import Client
    from calibox_client.errors import CaliboxClientError

    try:
        with Client(server, headers=key_headers(), on_retry=tell_of_retry) as client:
            models = client.models()
    except (CaliboxClientError, ValueError) as error:
        raise command_error(error) from error
    if as_json:
        typer.echo(json.dumps([dict(model.document) for model in models], indent=1))
    else:
        _show(models)
    if not any(model.ready for model in models):
        raise typer.Exit(1)


def _show(models: "Sequence[ModelInfo]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "version", "state", "default", "classes")
    for model in models:
        state = model.document.get("reason") or model.document.get("state", "?")
        table.add_row(
            Text(model.name),
            Text(model.version),
            Text(str(state), style="green" if model.ready else "red"),
            "yes" if model.default else "",
            Text(", ".join(model.labels.values()) or "-"),
        )
    Console().print(table)

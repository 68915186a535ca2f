"""`calibox models ls` and `calibox models verify`: a model repository without a server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calibox_core.cli import require_extra
from calibox_core.errors import BundleError
from calibox_server.options import ENV_PREFIX, Options

if TYPE_CHECKING:
    from calibox_server.inventory import StockItem

models = typer.Typer(help="List or check the bundles of a folder.", no_args_is_help=True)

ModelsOption = Annotated[
    Path,
    typer.Option("--models", envvar=f"{ENV_PREFIX}MODELS", help=Options.model_fields["models"].description),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON list, and nothing else.")]
_DEFAULT = Path("models")  # that of `calibox serve`


@models.command("ls")
def list_models(folder: ModelsOption = _DEFAULT, as_json: JsonOption = False) -> None:
    """Show every version of every model: classes, input, size, engines, and whether its files are whole."""
    from calibox_server.inventory import take_stock

    _show(_found(take_stock(folder), folder), as_json)


@models.command("verify")
def verify_models(folder: ModelsOption = _DEFAULT, as_json: JsonOption = False) -> None:
    """Check what `calibox serve` would check: schema, hashes, the graph against the contract, engines' records.

    The exit status is 1 when anything is wrong.
    """
    require_extra("models verify", "cpu", "onnxruntime")
    from calibox_server.inventory import take_stock, thorough

    items = _found(take_stock(folder, thorough), folder)
    _show(items, as_json)
    if any(item.problems for item in items):
        raise typer.Exit(1)


def _found(items: "Sequence[StockItem]", folder: Path) -> "Sequence[StockItem]":
    if not items:
        raise BundleError(
            f"no bundle was found in {folder} (looked for <name>/<version>/manifest.json); "
            "name the folder with --models"
        )
    return items


def _show(items: "Sequence[StockItem]", as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([item.document() for item in items], indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("model", "version", "classes", "input", "size", "engines", "parity", "state")
    for item in items:
        table.add_row(
            Text(item.name),
            Text(item.version),
            "?" if item.classes is None else str(item.classes),
            "?" if item.input is None else "{} x {}".format(*item.input),
            f"{item.bytes / 1e6:.1f} MB",
            ", ".join(item.engines) or "-",
            item.parity or "-",
            Text("\n".join(item.problems) or "ok", style="red" if item.problems else "green"),
        )
    Console().print(table)

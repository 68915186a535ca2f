"""The `calibox` command. Each room registers its subcommands in the entry-point group `calibox.commands`.

Command modules import only light things at the top, so that `calibox --help` is quick and needs no extra.
"""

import importlib.util
import sys
from importlib.metadata import entry_points

import typer

from calibox_core import __version__
from calibox_core.errors import CaliboxError

COMMAND_GROUP = "calibox.commands"


class MissingExtraError(CaliboxError):
    """A command needs packages of an extra that is not installed."""


def require_extra(command: str, extra: str, *modules: str) -> None:
    """Says in one sentence which extra a command lacks.

    Raises:
        MissingExtraError: one of ``modules`` cannot be imported here.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"`calibox {command}` needs {', '.join(missing)}; install the extra with: pip install 'calibox[{extra}]'"
        )


def build_app() -> typer.Typer:
    """The application with every registered subcommand."""
    app = typer.Typer(
        name="calibox",
        help="Object detection whose boxes can be trusted: train, export, serve and measure.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )

    @app.callback(invoke_without_command=True)
    def root(
        version: bool = typer.Option(False, "--version", help="Print the version and stop."),
    ) -> None:
        if version:
            typer.echo(f"calibox {__version__}")
            raise typer.Exit

    for command in sorted(entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name):
        loaded = command.load()
        if isinstance(loaded, typer.Typer):  # a group of commands
            app.add_typer(loaded, name=command.name)
        else:
            app.command(command.name)(loaded)
    return app


def main() -> None:
    """Entry point: errors raised on purpose end the program with their sentence and exit status 1."""
    try:
        build_app()()
    except CaliboxError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The `calibox` command. Each room registers its subcommands in the entry-point group `calibox.commands`.

A name with a dot, `models.served`, adds a command to the group that another room registered, here `calibox models`.

Command modules import only light things at the top, so that `calibox --help` is quick and needs no extra.
"""

import copy
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

    groups = {"": app}
    for command in sorted(entry_points(group=COMMAND_GROUP), key=lambda entry: entry.name):
        loaded = command.load()
        group, _, name = command.name.rpartition(".")  # a group sorts before what other rooms add to it
        if isinstance(loaded, typer.Typer):
            groups[name] = copy.copy(loaded)
            groups[name].registered_commands = [*loaded.registered_commands]  # what is added stays out of the room
            app.add_typer(groups[name], name=name)
        else:
            groups[group].command(name)(loaded)
    return app


def main() -> None:
    """Entry point: errors raised on purpose end the program with their sentence and their exit status, mostly 1."""
    try:
        build_app()(prog_name="calibox")
    except CaliboxError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(error.exit_status)


if __name__ == "__main__":
    main()

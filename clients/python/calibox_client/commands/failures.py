"""How the client's commands end when something is wrong."""

import typer

from calibox_core.errors import CaliboxError

AWAY_STATUS = 4  # scripts may try again later


class CommandError(CaliboxError):
    """The command cannot start or go on; the text says why."""


class ServerAwayError(CommandError):
    """The server cannot be reached, is too busy, or takes too long."""

    exit_status = AWAY_STATUS


def command_error(error: Exception) -> CommandError:
    """The same sentence with the exit status that it deserves."""
    from calibox_client.errors import DeadlineError, OverloadedError, ServerUnreachableError

    is_away = isinstance(error, DeadlineError | OverloadedError | ServerUnreachableError)
    return (ServerAwayError if is_away else CommandError)(str(error))


def tell(sentence: str) -> None:
    """Writes a sentence to standard error."""
    typer.secho(sentence, err=True, fg=typer.colors.RED)


def tell_of_retry(error: BaseException, pause: float) -> None:
    """Says why nothing happens, to somebody who sits before the terminal."""
    import sys

    if sys.stderr.isatty():
        typer.secho(f"{error}; again in {pause:.1f} s", err=True, fg=typer.colors.YELLOW)

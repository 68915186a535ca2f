"""A progress bar on standard error, for people: only on a terminal, and only where no lines are printed to it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def wants_progress(*, prints: bool) -> bool:
    """Whether a bar is of use: lines that are printed to the same terminal meanwhile are progress enough."""
    return sys.stderr.isatty() and not (prints and sys.stdout.isatty())


@contextmanager
def progress_bar(what: str, total: int | None, *, done: int = 0, prints: bool = True) -> Iterator[Callable[[], None]]:
    """Shows a bar while the block runs; gives what to call after each step.

    Args:
        what: is counted.
        total: steps in all, if that is known.
        done: of them, already.
        prints: whether the block prints lines to standard output.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    bar = Progress(
        *columns, *times, console=Console(stderr=True), transient=True, disable=not wants_progress(prints=prints)
    )
    with bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda: bar.advance(task)

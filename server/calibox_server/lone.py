"""Runs that have the cores to themselves get all of them, where one beside others gets its share.

Most servers wait most of the time: a request that comes alone would leave all cores but one idle.
"""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from calibox_server.engine import Engine, EngineInput, EngineOutput


@runtime_checkable
class LoneEngine(Protocol):
    """An engine on the CPU that can be opened a second time, with more threads, for runs that go on alone."""

    @property
    def lone_threads(self) -> int:
        """Threads of such a run; 0 while it is not opened for them."""

    def open_lone(self, threads: int) -> None:
        """Opens it for them, and runs once."""

    def close_lone(self) -> None:
        """Frees what `open_lone` took; no such run goes on."""

    def run_alone(self, batch: EngineInput) -> EngineOutput:
        """As `Engine.run`; one at a time."""


def runner_alone(engine: Engine) -> Callable[[EngineInput], EngineOutput] | None:
    """What runs a batch that has the cores to itself; None where that is done like any other."""
    return engine.run_alone if isinstance(engine, LoneEngine) and engine.lone_threads else None

"""Who is let in: places in a queue, taken before any work is spent on them."""

import asyncio
import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from typing import Any, Generic, Protocol, TypeVar

from calibox_server.errors import OverloadedError, StoppingError
from calibox_server.queue import Priority

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

PACE_MEMORY = 0.9  # the smoothed seconds per image look back over about ten batches


class Submit(Protocol[T_contra, R_co]):
    """Puts one piece of admitted work into the queue and waits for its result."""

    def __call__(
        self, work: T_contra, *, deadline: float, priority: Priority = Priority.NORMAL
    ) -> Coroutine[Any, Any, R_co]:
        """Args: the work, the time on the door's clock after which nobody waits for it, and who goes first.

        Raises:
            DeadlineError: the deadline passed first.
            StoppingError: the door was closed first.
            ServiceError: the runner failed on this work's batch.
        """


class Held:
    """Places that are taken, whether their work waits, runs or is still being prepared."""

    def __init__(self) -> None:
        self.own = 0  # by this process

    def change(self, by: int) -> None:
        """Takes places, or gives them back where ``by`` is negative."""
        self.own += by

    @property
    def all(self) -> int:
        """By every process that shares the queue."""
        return self.own


class Door(ABC, Generic[T, R]):
    """Admits work as long as there are places.

    Args:
        queue_size: pieces of work that may be admitted at once.
        reserved: how many of these places only the high priority may take.
        instances: batches that run side by side, for the time after which a refused caller should come back.
        held: counts the places; a count of its own when None.
    """

    def __init__(self, *, queue_size: int, reserved: int = 0, instances: int = 1, held: Held | None = None) -> None:
        self._places = {Priority.HIGH: queue_size, Priority.NORMAL: max(1, queue_size - reserved)}
        self._instances = instances
        self.count = held or Held()
        self._pace = 0.0
        self._closing = False
        self._progress = asyncio.Event()  # something ended; whoever closes looks again

    @property
    def held(self) -> int:
        """Places taken here by admitted work."""
        return self.count.own

    @contextlib.contextmanager
    def admit(self, count: int, *, priority: Priority = Priority.NORMAL, more: bool = False) -> Iterator[Submit[T, R]]:
        """Takes ``count`` places for the length of the block, before any work is spent on them.

        Args:
            count: pieces of work.
            priority: decides which places are open.
            more: for somebody who holds places already and turns out to need these too; taken even while closing.

        Returns: the function that submits one piece of work.

        Raises:
            OverloadedError: not so many places are free.
            StoppingError: the door is closing.
        """
        self.take(count, priority=priority, more=more)
        try:
            yield self._submit
        finally:
            self.give_back(count)

    def take(self, count: int, *, priority: Priority = Priority.NORMAL, more: bool = False) -> None:
        """Takes places as `admit` does, until `give_back`."""
        self.check(count, priority=priority, more=more)
        self.count.change(count)

    def give_back(self, count: int) -> None:
        """Gives back places that were taken."""
        self.count.change(-count)
        self._progress.set()

    def check(self, count: int, *, priority: Priority = Priority.NORMAL, more: bool = False) -> None:
        """Raises what `admit` would raise now, and takes nothing."""
        if self._closing and not more:
            raise StoppingError("this model is being closed and takes no new requests; send it again")
        places, held = self._places[priority], self.count.all
        if held + count > places:
            raise OverloadedError(
                f"{min(held, places)} of {places} places in the queue are taken; try again later",
                retry_after=max(1, math.ceil(held * self._pace / self._instances)),
            )

    @abstractmethod
    async def _submit(self, work: T, *, deadline: float, priority: Priority = Priority.NORMAL) -> R:
        """`Submit`."""

    def _note_pace(self, per_image: float) -> None:
        """Learns from one batch how many seconds an image takes."""
        self._pace = PACE_MEMORY * self._pace + (1 - PACE_MEMORY) * per_image if self._pace else per_image

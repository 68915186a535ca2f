"""The queue's policy, apart from waiting: what starts when. Pure; the time is an argument, in seconds.

A batch starts at once when an instance of the engine is idle. Only while all are busy do entries gather, and engines
that keep batches ready (``in_flight`` above ``instances``) get one ahead when it is full or its oldest entry has
waited ``max_delay``.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from calibox_server.errors import DeadlineError

T = TypeVar("T")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)


class Reply(Protocol[R_contra]):
    """The part of a future that the queue and the batcher use."""

    def done(self) -> bool:
        """Whether the caller was answered or left."""

    def set_result(self, result: R_contra, /) -> None:
        """Answers the caller."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Answers the caller with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What bounds a queue. Times are in seconds."""

    max_batch: int
    max_delay: float
    instances: int  # batches that run side by side
    in_flight: int  # batches that may be handed over, at least `instances`


@dataclass(slots=True, eq=False)
class Entry(Generic[T, R]):
    """One piece of work that waits."""

    work: T
    reply: Reply[R]
    arrived: float
    deadline: float
    taken: bool = False  # whether a batch holds it


@dataclass(slots=True)
class Queue(Generic[T, R]):
    """Entries in the order of arrival."""

    policy: Policy
    entries: deque[Entry[T, R]] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.entries)

    def put(self, entry: Entry[T, R]) -> None:
        """Appends an entry."""
        self.entries.append(entry)

    def discard(self, entry: Entry[T, R]) -> None:
        """Removes an entry whose caller left or was answered; nothing if it is not here any more."""
        if entry in self.entries:
            self.entries.remove(entry)

    def due(self, running: int) -> float:
        """The time from which the next batch may start while ``running`` are under way; infinite if none may."""
        if not self.entries or running >= self.policy.in_flight:
            return math.inf
        if running < self.policy.instances or len(self.entries) >= self.policy.max_batch:
            return -math.inf
        return self.entries[0].arrived + self.policy.max_delay

    def take(self, now: float) -> list[Entry[T, R]]:
        """The next batch, without those whose caller left or whose deadline passed; the latter are answered here."""
        batch: list[Entry[T, R]] = []
        while self.entries and len(batch) < self.policy.max_batch:
            entry = self.entries.popleft()
            if entry.reply.done():
                continue
            if entry.deadline <= now:
                entry.reply.set_exception(waited_too_long(entry, now))
                continue
            entry.taken = True
            batch.append(entry)
        return batch


def waited_too_long(entry: Entry[T, R], now: float) -> DeadlineError:
    """The error of an entry whose deadline passed."""
    where = "in the engine" if entry.taken else "in the queue"
    return DeadlineError(
        f"the deadline passed {where}, {now - entry.arrived:.3f} s after the image was decoded; "
        "allow more with timeout_ms, or send less at once"
    )

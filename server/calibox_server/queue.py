"""The queue's policy, apart from waiting: what starts when. Pure; the time is an argument, in seconds.

A batch starts at once when an instance of the engine is idle. Only while all are busy do entries gather, and engines
that keep batches ready (``in_flight`` above ``instances``) get one ahead when it is full or its oldest entry has
waited ``max_delay``.

Of two priorities the high one goes first, but while both wait, every `SHARE`-th place of the batches belongs to the
normal one. A share, and not an age at which an entry is moved up: the k-th normal entry is taken within k * `SHARE`
places whatever else arrives, so the normal requests keep a known part of the throughput and need no clock for it, while
a deadline of ten seconds says nothing about how long its sender likes to wait.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from calibox_server.errors import DeadlineError

T = TypeVar("T")
R = TypeVar("R")
R_contra = TypeVar("R_contra", contravariant=True)

SHARE = 4  # of four places, three for the urgent: they hardly notice the rest, which goes on at a quarter of the speed


class Priority(StrEnum):
    """Who goes first."""

    HIGH = "high"
    NORMAL = "normal"


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
    priority: Priority = Priority.NORMAL
    taken: bool = False  # whether a batch holds it


@dataclass(slots=True)
class Queue(Generic[T, R]):
    """Entries in the order of arrival, apart by priority."""

    policy: Policy
    high: deque[Entry[T, R]] = field(default_factory=deque)
    normal: deque[Entry[T, R]] = field(default_factory=deque)
    passed: int = 0  # places that the high priority took while normal entries waited, since one of these had its turn

    def __len__(self) -> int:
        return len(self.high) + len(self.normal)

    def __iter__(self) -> Iterator[Entry[T, R]]:
        """Every entry, the high priority first."""
        yield from self.high
        yield from self.normal

    def put(self, entry: Entry[T, R]) -> None:
        """Appends an entry."""
        self._level(entry).append(entry)

    def discard(self, entry: Entry[T, R]) -> None:
        """Removes an entry whose caller left or was answered; nothing if it is not here any more."""
        level = self._level(entry)
        if entry in level:
            level.remove(entry)

    def due(self, running: int) -> float:
        """The time from which the next batch may start while ``running`` are under way; infinite if none may."""
        waiting = len(self)
        if not waiting or running >= self.policy.in_flight:
            return math.inf
        if running < self.policy.instances or waiting >= self.policy.max_batch:
            return -math.inf
        return min(level[0].arrived for level in (self.high, self.normal) if level) + self.policy.max_delay

    def take(self, now: float) -> list[Entry[T, R]]:
        """The next batch, without those whose caller left or whose deadline passed; the latter are answered here."""
        batch: list[Entry[T, R]] = []
        while len(batch) < self.policy.max_batch and (level := self._next_level()):
            entry = level.popleft()
            if entry.reply.done():
                continue
            if entry.deadline <= now:
                entry.reply.set_exception(waited_too_long(entry, now))
                continue
            entry.taken = True
            batch.append(entry)
            self.passed = self.passed + 1 if level is self.high and self.normal else 0
        return batch

    def _next_level(self) -> deque[Entry[T, R]]:
        """Whose turn it is; empty only when both are."""
        turn_of_normal = not self.high or (self.normal and self.passed >= SHARE - 1)
        return self.normal if turn_of_normal else self.high

    def _level(self, entry: Entry[T, R]) -> deque[Entry[T, R]]:
        return self.high if entry.priority is Priority.HIGH else self.normal


def waited_too_long(entry: Entry[T, R], now: float) -> DeadlineError:
    """The error of an entry whose deadline passed."""
    where = "in the engine" if entry.taken else "in the queue"
    return DeadlineError(
        f"the deadline passed {where}, {now - entry.arrived:.3f} s after the image was decoded; "
        "allow more with timeout_ms, or send less at once"
    )

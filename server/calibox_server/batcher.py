"""Waits for what the queue decides: the only part of batching that knows asyncio. Everything runs on the event loop.

Each admitted caller is answered exactly once, whatever happens to its batch, its mates or the engine.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

from calibox_server.errors import OverloadedError, ServiceError, StoppingError
from calibox_server.queue import Entry, Policy, Priority, Queue, waited_too_long

T = TypeVar("T")
R = TypeVar("R")
T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

PACE_MEMORY = 0.9  # the smoothed seconds per image look back over about ten batches
MIN_WAIT = 0.001  # event loops count in milliseconds; a shorter timer would fire before its time


class Submit(Protocol[T_contra, R_co]):
    """Puts one piece of admitted work into the queue and waits for its result."""

    def __call__(
        self, work: T_contra, *, deadline: float, priority: Priority = Priority.NORMAL
    ) -> Coroutine[Any, Any, R_co]:
        """Args: the work, the time on the batcher's clock after which nobody waits for it, and who goes first.

        Raises:
            DeadlineError: the deadline passed first.
            StoppingError: the batcher was closed first.
            ServiceError: the runner failed on this work's batch.
        """


class Batcher(Generic[T, R]):
    """Gathers work into batches for a runner.

    Args:
        run: one batch to as many results, in order.
        policy: when batches start.
        queue_size: pieces of work that may be admitted at once.
        reserved: how many of these places only the high priority may take.
        release: called exactly once for each submitted work, when neither the queue nor the runner holds it any more.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R]]],
        policy: Policy,
        *,
        queue_size: int,
        reserved: int = 0,
        release: Callable[[T], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._policy = policy
        self._places = {Priority.HIGH: queue_size, Priority.NORMAL: max(1, queue_size - reserved)}
        self._release = release
        self._clock = clock
        self._queue: Queue[T, R] = Queue(policy)
        self._running: list[list[Entry[T, R]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._held = 0
        self._pace = 0.0
        self._closing = self._closed = False
        self._progress = asyncio.Event()  # something ended; whoever closes looks again

    @property
    def waiting(self) -> int:
        """Pieces of work in the queue, not counting what runs."""
        return len(self._queue)

    @property
    def held(self) -> int:
        """Places taken by admitted work, whether it waits, runs or is still being prepared."""
        return self._held

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
            StoppingError: the batcher is closing.
        """
        self.check(count, priority=priority, more=more)
        self._held += count
        try:
            yield self._submit
        finally:
            self._held -= count
            self._progress.set()

    def check(self, count: int, *, priority: Priority = Priority.NORMAL, more: bool = False) -> None:
        """Raises what `admit` would raise now, and takes nothing."""
        if self._closing and not more:
            raise StoppingError("this model is being closed and takes no new requests; send it again")
        places = self._places[priority]
        if self._held + count > places:
            raise OverloadedError(
                f"{min(self._held, places)} of {places} places in the queue are taken; try again later",
                retry_after=max(1, math.ceil(self._held * self._pace / self._policy.instances)),
            )

    async def close(self, timeout: float) -> bool:
        """Admits nothing more, waits at most ``timeout`` seconds for what was admitted, and ends the rest.

        Returns: whether everything ended in time, so that nothing runs any more.
        """
        self._closing = True
        try:
            async with asyncio.timeout(timeout):
                while self._held or self._running:  # the engine may still hold work whose caller left
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            pass
        self._closed = True
        for entry in [*self._queue, *(e for batch in self._running for e in batch)]:
            _answer(entry, StoppingError("the server stopped before the answer was ready; send it again"))
        return not (self._held or self._running)

    async def _submit(self, work: T, *, deadline: float, priority: Priority = Priority.NORMAL) -> R:
        loop, now = asyncio.get_running_loop(), self._clock()
        reply: asyncio.Future[R] = loop.create_future()
        entry: Entry[T, R] = Entry(work, reply, arrived=now, deadline=deadline, priority=priority)
        timer = loop.call_later(max(0.0, deadline - now), self._expire, entry)
        try:
            if self._closed:
                raise StoppingError("the server stopped before the answer was ready; send it again")
            self._queue.put(entry)
            self._pump()
            return await reply
        finally:
            timer.cancel()
            if reply.done() and not reply.cancelled():
                reply.exception()  # seen, even if the caller was cancelled in the same moment
            if not entry.taken:
                self._queue.discard(entry)
                self._release(work)

    def _expire(self, entry: Entry[T, R]) -> None:
        _answer(entry, waited_too_long(entry, self._clock()))

    def _pump(self) -> None:
        """Starts what is due, and sets the timer for what will be."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (due := self._queue.due(len(self._running))) <= (now := self._clock()):
            if batch := self._queue.take(now):
                self._running.append(batch)
                task = loop.create_task(self._serve(batch))
                self._tasks.add(task)  # the loop itself keeps only weak references
                task.add_done_callback(self._tasks.discard)
        if due < math.inf:
            self._timer = loop.call_later(max(MIN_WAIT, due - now), self._pump)

    async def _serve(self, batch: list[Entry[T, R]]) -> None:
        started = self._clock()
        results: Sequence[R] = ()
        failure: Exception | None = RuntimeError("the batch was given up")  # stays only where this task is cancelled
        try:
            results = await self._run([entry.work for entry in batch])
            short = len(results) != len(batch)
            failure = RuntimeError(f"{len(results)} results for {len(batch)} images") if short else None
        except Exception as error:
            failure = error
        finally:
            self._running.remove(batch)
            self._progress.set()
            for entry in batch:
                self._release(entry.work)
            self._pump()  # first: the engine does not wait until these callers have dealt with their answers
            self._answer_all(batch, results, failure)
        per_image = (self._clock() - started) / len(batch)
        self._pace = PACE_MEMORY * self._pace + (1 - PACE_MEMORY) * per_image if self._pace else per_image

    @staticmethod
    def _answer_all(batch: list[Entry[T, R]], results: Sequence[R], failure: Exception | None) -> None:
        if failure is None:
            for entry, result in zip(batch, results, strict=True):
                if not entry.reply.done():
                    entry.reply.set_result(result)
            return
        for entry in batch:
            error = ServiceError("the engine failed on this batch; the server's log has the reason")
            error.__cause__ = failure
            _answer(entry, error)


def _answer(entry: Entry[T, R], error: ServiceError) -> None:
    if not entry.reply.done():
        entry.reply.set_exception(error)

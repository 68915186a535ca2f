"""Waits for what the queue decides: the only part of batching that knows asyncio. Everything runs on the event loop.

Each admitted caller is answered exactly once, whatever happens to its batch, its mates or the engine.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from calibox_server.door import Door, Held
from calibox_server.errors import ServiceError, stopped_early
from calibox_server.queue import Entry, Policy, Priority, Queue, Reply, waited_too_long

T = TypeVar("T")
R = TypeVar("R")

MIN_WAIT = 0.001  # event loops count in milliseconds; a shorter timer would fire before its time


class Batcher(Door[T, R]):
    """Gathers work into batches for a runner.

    Args:
        run: one batch to as many results, in order; calls its second argument on the event loop once it has them or
            has failed, but not before it returns. A ServiceError is told to the batch's callers as it is.
        policy: when batches start.
        queue_size: pieces of work that may be admitted at once.
        reserved: how many of these places only the high priority may take.
        release: called exactly once for each submitted work, when neither the queue nor the runner holds it any more.
        clock: seconds, monotonic.
        held: counts the places.
    """

    def __init__(
        self,
        run: Callable[[Sequence[T], Reply[Sequence[R]]], None],
        policy: Policy,
        *,
        queue_size: int,
        reserved: int = 0,
        release: Callable[[T], object] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        held: Held | None = None,
    ) -> None:
        super().__init__(queue_size=queue_size, reserved=reserved, instances=policy.instances, held=held)
        self._run = run
        self._policy = policy
        self._release = release
        self._clock = clock
        self._queue: Queue[T, R] = Queue(policy)
        self._running: list[_Run[T, R]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None  # one for all deadlines: setting one for each costs more
        self._alarm_at = math.inf  # not later than the first of them
        self._guests = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Pieces of work in the queue, not counting what runs."""
        return len(self._queue)

    def invite(self, count: int) -> None:
        """Other processes may hand in work with `enter` from now on, or, where ``count`` is negative, no more."""
        self._guests += count
        self._progress.set()

    def enter(self, entry: Entry[T, R]) -> None:
        """Takes work whose place is held elsewhere and whose caller hears of it through the entry's reply alone."""
        if self._closed:
            _answer(entry, stopped_early())
            return
        self._queue.put(entry)
        self._pump()

    def leave(self, entry: Entry[T, R]) -> None:
        """Takes an entry of `enter` out of the queue, unless a batch holds it: then its reply is still called."""
        if not entry.taken:
            self._queue.discard(entry)
            self._progress.set()

    async def close(self, timeout: float) -> bool:
        """Admits nothing more, waits at most ``timeout`` seconds for what was admitted, and ends the rest.

        Returns: whether everything ended in time, so that nothing runs any more.
        """
        self._closing = True
        try:
            async with asyncio.timeout(timeout):
                while self._is_busy:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            pass
        self._closed = True
        self._clear_alarm()  # it would keep what is closed alive
        for entry in self._entries():
            _answer(entry, stopped_early())
        return not self._is_busy

    @property
    def _is_busy(self) -> bool:
        # What runs counts by itself: the engine may still hold work whose caller left.
        return bool(self.count.own or self._guests or self._running or len(self._queue))

    def hold(
        self, work: T, reply: Reply[R], *, deadline: float, priority: Priority = Priority.NORMAL
    ) -> Callable[[], None]:
        """Puts admitted work into the queue.

        Args:
            work, deadline, priority: as `Submit` has them.
            reply: hears of it; perhaps before this returns.

        Returns: what ends its stay, to be called once: when the reply was given or nobody waits for it any more.

        Raises:
            StoppingError: closed; the reply is not called.
        """
        now = self._clock()
        entry: Entry[T, R] = Entry(work, reply, arrived=now, deadline=deadline, priority=priority)
        if self._closed:
            self._release(work)
            raise stopped_early()
        if deadline < self._alarm_at:
            self._set_alarm(deadline, now)

        def end() -> None:
            if not entry.taken:
                self._queue.discard(entry)
                self._release(work)

        self._queue.put(entry)
        self._pump()
        return end

    async def _submit(self, work: T, *, deadline: float, priority: Priority = Priority.NORMAL) -> R:
        reply: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        end = self.hold(work, reply, deadline=deadline, priority=priority)
        try:
            return await reply
        finally:
            end()
            if reply.done() and not reply.cancelled():
                reply.exception()  # seen, even if the caller was cancelled in the same moment

    def _set_alarm(self, at: float, now: float) -> None:
        self._clear_alarm()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().call_later(max(MIN_WAIT, at - now), self._expire)

    def _clear_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm, self._alarm_at = None, math.inf

    def _expire(self) -> None:
        """Answers those whose deadline passed, and sets the alarm for the first of the others."""
        self._clear_alarm()
        now = self._clock()
        waiting = [entry for entry in self._entries() if not entry.reply.done()]
        if later := [entry.deadline for entry in waiting if entry.deadline > now]:
            self._set_alarm(min(later), now)
        for entry in waiting:
            if entry.deadline <= now:
                _answer(entry, waited_too_long(entry, now))

    def _entries(self) -> list[Entry[T, R]]:
        """What waits and what runs."""
        return [*self._queue, *(entry for run in self._running for entry in run.batch)]

    def _pump(self) -> None:
        """Starts what is due, and sets the timer for what will be."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while (due := self._queue.due(len(self._running))) <= (now := self._clock()):
            if batch := self._queue.take(now):
                self._start(_Run(batch, now, self._ended))
        if due < math.inf:
            self._timer = loop.call_later(max(MIN_WAIT, due - now), self._pump)

    def _start(self, run: "_Run[T, R]") -> None:
        self._running.append(run)
        try:
            self._run([entry.work for entry in run.batch], run)
        except Exception as error:  # it could not even begin
            asyncio.get_running_loop().call_soon(run.set_exception, error)

    def _ended(self, run: "_Run[T, R]", results: Sequence[R], failure: BaseException | None) -> None:
        batch = run.batch
        self._running.remove(run)
        self._progress.set()
        for entry in batch:
            self._release(entry.work)
        self._pump()  # first: the engine does not wait until these callers have dealt with their answers
        if failure is None:
            self._note_pace((self._clock() - run.begun) / len(batch))
            if len(results) == len(batch):
                for entry, result in zip(batch, results, strict=True):
                    if not entry.reply.done():
                        entry.reply.set_result(result)
                return
            failure = RuntimeError(f"{len(results)} results for {len(batch)} images")
        for entry in batch:
            _answer(entry, failure if isinstance(failure, ServiceError) else _engine_failed(failure))


class _Run(Generic[T, R]):
    """A batch that runs; itself told how that ended, as a future is."""

    __slots__ = ("_over", "_then", "batch", "begun")

    def __init__(
        self,
        batch: list[Entry[T, R]],
        begun: float,
        then: Callable[["_Run[T, R]", Sequence[R], BaseException | None], None],
    ) -> None:
        self.batch = batch
        self.begun = begun
        self._then = then
        self._over = False

    def done(self) -> bool:
        """As a future's."""
        return self._over

    def set_result(self, results: Sequence[R], /) -> None:
        """As a future's."""
        self._over = True
        self._then(self, results, None)

    def set_exception(self, exception: BaseException, /) -> None:
        """As a future's."""
        self._over = True
        self._then(self, (), exception)


def _answer(entry: Entry[T, R], error: ServiceError) -> None:
    if not entry.reply.done():
        entry.reply.set_exception(error)


def _engine_failed(cause: BaseException) -> ServiceError:
    error = ServiceError("the engine failed on this batch; the server's log has the reason")
    error.__cause__ = cause
    return error

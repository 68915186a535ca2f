"""Blocking work beside the event loop."""

import asyncio
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from calibox_server.errors import ServiceError
from calibox_server.queue import Reply

S = TypeVar("S")
T = TypeVar("T")

Call = Callable[[], object]


async def in_background(work: Callable[[], T]) -> T:
    """As `asyncio.to_thread`, in a daemon thread: loading a model may take longer than the time to drain."""
    done: Future[T] = Future()

    def run() -> None:
        done.set_running_or_notify_cancel()
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await asyncio.wrap_future(done)


class Threads(Protocol):
    """Threads that run what they are given: ours, or an executor of the standard library."""

    def submit(self, call: Call, /) -> object:
        """Has one of them run it."""


class Crew:
    """Threads that compute: an executor without the futures and locks that nobody here asks for.

    The thread that became idle last is the next to begin: the caches of its core still hold the model. On Linux they
    are of the kind ``SCHED_BATCH`` (sched(7)): woken, they do not push the event loop off its core.

    Args:
        count: threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._shift = _Shift()
        for i in range(count):
            threading.Thread(target=_run_all, args=(self._shift,), name=f"{name}_{i}", daemon=True).start()
        self.close = weakref.finalize(self, self._shift.end)  # what runs ends, what waits never begins

    def submit(self, call: Call, /) -> None:
        """Has a free thread run it, or the first that will be; it raises nothing."""
        self._shift.hand_out(call)


class _Shift:
    """What a crew shares with its threads, which do not keep the crew itself alive."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # the collector may end a crew while one of its own threads has it
        self._idle: list[SimpleQueue[Call | None]] = []  # where idle threads listen, the last one last
        self._waiting: deque[Call] = deque()  # only while no thread is idle
        self._over = False

    def hand_out(self, call: Call) -> None:
        """Wakes a thread for it; while all have something to do, it waits."""
        with self._lock:
            if not self._idle:
                self._waiting.append(call)
                return
            listening = self._idle.pop()
        listening.put(call)

    def next(self, listening: "SimpleQueue[Call | None]") -> Call | None:
        """Waits for what a thread has to do; None once it is over."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._idle.append(listening)
            if self._over:
                listening.put(None)
        return listening.get()

    def end(self) -> None:
        """Nothing more begins."""
        with self._lock:
            self._over = True
            self._waiting.clear()
            idle, self._idle = self._idle, []
        for listening in idle:
            listening.put(None)


def _run_all(shift: _Shift) -> None:
    if sys.platform == "linux":
        with suppress(OSError):  # where that is not allowed
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # 0: this thread
    listening: SimpleQueue[Call | None] = SimpleQueue()
    while (call := shift.next(listening)) is not None:
        call()
        del call  # while the thread waits, it keeps nothing alive


def in_thread(pool: Threads, work: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
    """As the event loop's `run_in_executor`, with half of its turns of the loop and locks.

    Who cancels what is returned does not stop the work, only gets nothing of it.
    """
    reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    reply_from_thread(reply, pool, work, *arguments)
    return reply


def reply_from_thread(reply: Reply[T], pool: Threads, work: Callable[..., T], *arguments: object) -> None:
    """As `in_thread`, for a caller who is called on the event loop: a turn of it less, and there is one per request.

    Args:
        reply: the caller, never called before this returns.
        pool, work, arguments: as `in_thread` takes them.
    """
    loop = asyncio.get_running_loop()

    def run() -> None:
        try:
            result = work(*arguments)
        except BaseException as error:
            _tell(loop, _fail, reply, error)
        else:
            _tell(loop, _succeed, reply, result)

    pool.submit(run)


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *arguments: object) -> None:
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(settle, *arguments)


def _succeed(reply: Reply[T], result: T) -> None:
    if not reply.done():
        reply.set_result(result)


def _fail(reply: Reply[Any], error: BaseException) -> None:
    if not reply.done():
        reply.set_exception(error)


async def in_pool(
    pool: Threads, work: Callable[[S], T], items: Sequence[S], *, undo: Callable[[T], object] = lambda _: None
) -> list[T]:
    """``work`` on every item, in order. If one fails, the others' results are undone and the first error is raised."""
    jobs = [in_thread(pool, work, item) for item in items]
    if len(jobs) == 1:
        return [await jobs[0]]
    done = await asyncio.gather(*jobs, return_exceptions=True)
    well = [result for result in done if not isinstance(result, BaseException)]
    for failure in done:
        if isinstance(failure, BaseException):
            for result in well:
                undo(result)
            raise failure
    return well


async def together(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Every result in order, or the first `ServiceError`; then the other jobs are cancelled."""
    if len(jobs) == 1:
        return [await jobs[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except* ServiceError as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]

"""Blocking work beside the event loop."""

import asyncio
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from calibox_server.errors import ServiceError

S = TypeVar("S")
T = TypeVar("T")


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

    def submit(self, call: Callable[[], object], /) -> object:
        """Has one of them run it."""


class Crew:
    """Threads that compute: an executor without the futures and locks that nobody here asks for.

    On Linux they are of the kind ``SCHED_BATCH`` (sched(7)): woken, they do not push the event loop off its core.

    Args:
        count: threads.
        name: of the threads.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        for i in range(count):
            threading.Thread(target=_run_all, args=(self._calls,), name=f"{name}_{i}", daemon=True).start()
        self.close = weakref.finalize(self, _send_home, self._calls, count)  # what runs ends, what waits never begins

    def submit(self, call: Callable[[], object], /) -> None:
        """Has the next free thread run it; it raises nothing."""
        self._calls.put(call)


def _run_all(calls: "SimpleQueue[Callable[[], object] | None]") -> None:
    if sys.platform == "linux":
        with suppress(OSError):  # where that is not allowed
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # 0: this thread
    while (call := calls.get()) is not None:
        call()
        del call  # while the thread waits, it keeps nothing alive


def _send_home(calls: "SimpleQueue[Callable[[], object] | None]", count: int) -> None:
    with suppress(Empty):
        while True:
            calls.get_nowait()
    for _ in range(count):
        calls.put(None)


def in_thread(pool: Threads, work: Callable[..., T], *arguments: object) -> "asyncio.Future[T]":
    """As the event loop's `run_in_executor`, with half of its turns of the loop and locks: there is one per request.

    Who cancels what is returned does not stop the work, only gets nothing of it.
    """
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work(*arguments)
        except BaseException as error:
            _tell(loop, _fail, reply, error)
        else:
            _tell(loop, _succeed, reply, result)

    pool.submit(run)
    return reply


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *arguments: object) -> None:
    with suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(settle, *arguments)


def _succeed(reply: "asyncio.Future[T]", result: T) -> None:
    if not reply.done():
        reply.set_result(result)


def _fail(reply: "asyncio.Future[Any]", error: BaseException) -> None:
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

"""Blocking work beside the event loop."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

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


async def in_pool(
    pool: Executor, work: Callable[[S], T], items: Sequence[S], *, undo: Callable[[T], object] = lambda _: None
) -> list[T]:
    """``work`` on every item, in order. If one fails, the others' results are undone and the first error is raised."""
    loop = asyncio.get_running_loop()
    jobs = [loop.run_in_executor(pool, work, item) for item in items]
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

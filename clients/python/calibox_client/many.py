"""Many images through one client: a bounded number at once, results in the order of the images.

Both forms look ``AHEAD`` times further than they ask at once, so that one slow answer does not hold up the others; no
more images and results than that are in memory.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeAlias, TypeVar

from calibox_client.errors import CaliboxClientError

AHEAD = 2
OnError: TypeAlias = Literal["raise", "return"]

_T = TypeVar("_T")
_R = TypeVar("_R")
_END: Any = object()


def check_on_error(on_error: OnError) -> OnError:
    """What becomes of an image that fails.

    Raises:
        ValueError: it is neither of the two.
    """
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error must be raise or return, got {on_error!r}")
    return on_error


def in_order(
    call: Callable[[_T], _R], items: Iterable[_T], *, concurrency: int, stop: Callable[[], None]
) -> Generator[_R]:
    """``call`` of every item, in threads; ends with its first failure, in its turn.

    Args:
        call: of one item.
        items: are fetched in the caller's thread.
        concurrency: calls under way at most.
        stop: called at the end, early or not; calls that are still under way are then waited for.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="calibox")
    waiting: deque[Future[_R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(call, item))
            while waiting and (waiting[0].done() or len(waiting) >= AHEAD * concurrency):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stop()
        pool.shutdown(wait=True, cancel_futures=True)


def sleep_unless(stopped: threading.Event, sleep: Callable[[float], None], seconds: float) -> None:
    """The pause before a repeat, which nobody waits for any more once ``stopped`` is set.

    Raises:
        CaliboxClientError: it is set.
    """
    if sleep is time.sleep:
        stopped.wait(seconds)
    else:
        sleep(seconds)
    if stopped.is_set():
        raise CaliboxClientError("nobody takes the result any more")


async def in_order_async(
    call: Callable[[_T], Awaitable[_R]], items: Iterable[_T] | AsyncIterable[_T], *, concurrency: int
) -> AsyncGenerator[_R]:
    """The same with coroutines; calls that are under way when the caller stops early are cancelled."""
    places = asyncio.Semaphore(concurrency)
    waiting: deque[asyncio.Task[_R]] = deque()

    async def run(item: _T) -> _R:
        async with places:
            return await call(item)

    try:
        async for item in each(items):
            waiting.append(asyncio.create_task(run(item)))
            while waiting and (waiting[0].done() or len(waiting) >= AHEAD * concurrency):
                yield await _taken(waiting)
        while waiting:
            yield await _taken(waiting)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def each(items: Iterable[_T] | AsyncIterable[_T]) -> AsyncIterator[_T]:
    """The items; those of a plain iterable are fetched in a thread, since it may read files or wait for a camera."""
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    iterator = iter(items)
    while (found := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield found


def or_error(call: Callable[[_T], _R], on_error: OnError) -> Callable[[_T], _R | CaliboxClientError]:
    """``call``, or the same with failures as values."""

    def attempt(item: _T) -> _R | CaliboxClientError:
        try:
            return call(item)
        except CaliboxClientError as error:
            return error

    return call if on_error == "raise" else attempt


def or_error_async(
    call: Callable[[_T], Awaitable[_R]], on_error: OnError
) -> Callable[[_T], Awaitable[_R | CaliboxClientError]]:
    """The same for coroutine functions."""

    async def attempt(item: _T) -> _R | CaliboxClientError:
        try:
            return await call(item)
        except CaliboxClientError as error:
            return error

    return call if on_error == "raise" else attempt


async def _taken(waiting: "deque[asyncio.Task[_R]]") -> _R:
    """The first one's result. It leaves the queue only then: who stops waiting for it cancels it with the others."""
    try:
        return await asyncio.shield(waiting[0])
    finally:
        if waiting[0].done():
            waiting.popleft()

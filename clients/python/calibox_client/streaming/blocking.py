"""Asynchronous iterators for callers without asyncio: an event loop in a thread of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, TypeVar

_T = TypeVar("_T")
_END: Any = object()


def iterate(make: Callable[[], AsyncIterator[_T]]) -> Generator[_T]:
    """What ``make()`` gives, item by item; between the items its tasks go on in the thread.

    Args:
        make: called in the thread's event loop; what it returns is closed at the end.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="calibox stream", daemon=True)
    thread.start()

    def run(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    iterator: Any = run(_called(make))
    try:
        while (item := run(_next(iterator))) is not _END:
            yield item
    finally:
        run(_end(iterator))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _next(iterator: Any) -> Any:
    return await anext(iterator, _END)


async def _end(iterator: Any) -> None:
    """Stops whatever runs: a caller that is interrupted leaves a step half done."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await iterator.aclose()
    await asyncio.sleep(0)  # sockets close in the loop's next turn
    await asyncio.get_running_loop().shutdown_asyncgens()


async def _called(make: Callable[[], _T]) -> _T:
    return make()

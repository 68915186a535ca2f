"""Work in a pool, and how its result comes back to the event loop."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from calibox_server.background import in_thread


def test_the_result_comes_back_and_the_arguments_go_there() -> None:
    async def ask() -> tuple[int, str]:
        with ThreadPoolExecutor(1, thread_name_prefix="there") as pool:
            return await in_thread(pool, lambda a, b: (a - b, threading.current_thread().name), 7, 3)

    assert asyncio.run(ask()) == (4, "there_0")


def test_an_error_is_raised_where_it_is_awaited() -> None:
    async def ask() -> None:
        with ThreadPoolExecutor(1) as pool:
            await in_thread(pool, int, "missing")

    with pytest.raises(ValueError, match="missing"):
        asyncio.run(ask())


def test_work_whose_caller_left_ends_unheard() -> None:
    ended = threading.Event()

    def work(held: threading.Event) -> None:
        held.wait()
        ended.set()

    async def ask() -> None:
        with ThreadPoolExecutor(1) as pool:
            held = threading.Event()
            reply = in_thread(pool, work, held)
            reply.cancel()
            held.set()
        await asyncio.sleep(0)  # the result arrives at a future that is cancelled

    asyncio.run(ask())
    assert ended.is_set()


def test_work_that_outlives_the_event_loop_does_no_harm() -> None:
    pool, held = ThreadPoolExecutor(1), threading.Event()

    async def ask() -> None:
        in_thread(pool, held.wait)

    asyncio.run(ask())
    held.set()
    assert pool.submit(lambda: "still there").result() == "still there"
    pool.shutdown()

"""Work in a pool, and how its result comes back to the event loop."""

import asyncio
import gc
import os
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from calibox_server.background import Crew, in_thread
from tests.support.gated_engine import PATIENCE_S


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


def _gone(name: str) -> bool:
    """Whether all threads of this name end."""
    until = time.monotonic() + PATIENCE_S
    while any(thread.name.startswith(name) for thread in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


def test_a_crew_runs_as_many_calls_at_once_as_it_has_threads_and_in_order() -> None:
    crew, both, names = Crew(2, "rowers"), threading.Barrier(3), []
    for _ in range(2):
        crew.submit(lambda: both.wait(PATIENCE_S) and names.append(threading.current_thread().name))
    both.wait(PATIENCE_S)
    alone, order, done = Crew(1, "walker"), [], threading.Event()
    for i in range(5):
        alone.submit(lambda i=i: order.append(i))  # type: ignore[misc]
    alone.submit(done.set)
    assert done.wait(PATIENCE_S)
    assert order == list(range(5))
    crew.close()
    alone.close()
    assert _gone("rowers")
    assert _gone("walker")


def test_the_thread_that_became_idle_last_begins_next() -> None:
    crew, both = Crew(2, "pair"), threading.Barrier(3)
    names, gates = SimpleQueue[str](), [threading.Event(), threading.Event()]

    def first(gate: threading.Event) -> None:
        both.wait(PATIENCE_S)
        gate.wait(PATIENCE_S)
        names.put(threading.current_thread().name)

    for gate in gates:
        crew.submit(lambda gate=gate: first(gate))  # type: ignore[misc]
    both.wait(PATIENCE_S)
    gates[0].set()
    names.get(timeout=PATIENCE_S)
    time.sleep(0.05)  # until it listens again
    gates[1].set()
    last = names.get(timeout=PATIENCE_S)
    for _ in range(5):
        time.sleep(0.05)
        crew.submit(lambda: names.put(threading.current_thread().name))
        assert names.get(timeout=PATIENCE_S) == last
    crew.close()


def test_a_crew_that_is_sent_home_ends_what_runs_and_begins_nothing_more() -> None:
    crew, begun, held, ran = Crew(1, "crew"), threading.Event(), threading.Event(), []
    crew.submit(lambda: (begun.set(), held.wait(PATIENCE_S), ran.append("first")))
    assert begun.wait(PATIENCE_S)
    crew.submit(lambda: ran.append("second"))
    crew.close()
    held.set()
    assert _gone("crew_")
    assert ran == ["first"]


def test_a_crew_that_nobody_holds_any_more_goes_home_by_itself() -> None:
    Crew(2, "forgotten")
    gc.collect()
    assert _gone("forgotten")


def test_a_crew_without_work_keeps_nothing_of_the_last_call() -> None:
    class Big:
        pass

    crew, done = Crew(1, "idle"), threading.Event()
    big = Big()
    crew.submit(lambda big=big: (big, done.set()))  # type: ignore[misc]
    watched = weakref.ref(big)
    del big
    assert done.wait(PATIENCE_S)
    until = time.monotonic() + PATIENCE_S
    while watched() is not None and time.monotonic() < until:
        time.sleep(0.001)
    assert watched() is None
    crew.close()


@pytest.mark.skipif(sys.platform != "linux", reason="a kind of thread that only Linux has")
def test_threads_of_a_crew_compute_and_the_others_stay_what_they_are() -> None:
    crew, kinds = Crew(1, "computes"), SimpleQueue[int]()
    crew.submit(lambda: kinds.put(os.sched_getscheduler(0)))
    assert kinds.get(timeout=PATIENCE_S) == os.SCHED_BATCH
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    crew.close()

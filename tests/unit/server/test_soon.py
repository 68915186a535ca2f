"""Work whose caller is called: the caller hears once, and the place and the slot come back once, whatever happens."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from calibox_server.batcher import Batcher
from calibox_server.errors import DeadlineError, OverloadedError, ServiceError, StoppingError
from calibox_server.queue import Policy, Priority
from calibox_server.soon import Soon
from tests.support.runners import in_task

LATER = 1e9  # a deadline that never comes


@dataclass(eq=False)
class Job:
    number: int
    unwanted: bool = False


@dataclass
class Caller:
    """Notes what it hears."""

    heard: list[Any] = field(default_factory=list)

    def done(self) -> bool:
        return bool(self.heard)

    def set_result(self, result: Any) -> None:
        self.heard.append(result)

    def set_exception(self, exception: BaseException) -> None:
        self.heard.append(type(exception))


class Bench:
    """A batcher for one place beside the one that runs, whose runner is held at first."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.ran: list[int] = []
        self.released: list[int] = []
        self.batcher: Batcher[Any, Any] = Batcher(
            in_task(self._run),
            Policy(max_batch=1, max_delay=0, instances=1, in_flight=1),
            queue_size=2,
            release=lambda job: self.released.append(job.number),
        )

    async def _run(self, batch: Sequence[Job]) -> list[int]:
        self.ran += [job.number for job in batch]
        await self.gate.wait()
        return [job.number * 10 for job in batch]

    def ask(
        self, number: int, *, deadline: float = LATER, finish: Callable[[Any], Any] = str
    ) -> tuple[Soon[Any], Job, Caller]:
        job, caller = Job(number), Caller()
        soon = Soon(self.batcher, job, finish, caller)  # type: ignore[arg-type]
        soon.start(deadline=deadline, priority=Priority.NORMAL)
        return soon, job, caller

    async def finish(self) -> None:
        self.gate.set()
        assert await self.batcher.close(60)
        assert (self.batcher.held, self.batcher.waiting) == (0, 0)


def run(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def benched() -> None:
        await scenario(Bench())

    asyncio.run(asyncio.wait_for(benched(), timeout=60))


def test_a_caller_hears_what_was_made_of_the_result() -> None:
    async def scenario(bench: Bench) -> None:
        (_, _, one), (_, _, two) = bench.ask(1), bench.ask(2)
        assert bench.batcher.held == 2
        await bench.finish()
        assert (one.heard, two.heard, bench.released) == (["10"], ["20"], [1, 2])

    run(scenario)


def test_what_fails_behind_the_engine_is_told_to_its_caller_alone() -> None:
    async def scenario(bench: Bench) -> None:
        (_, _, one), (_, _, two) = bench.ask(1, finish=lambda _: 1 / 0), bench.ask(2)
        await bench.finish()
        assert (one.heard, two.heard) == ([ZeroDivisionError], ["20"])

    run(scenario)


@pytest.mark.parametrize("stays", [True, False])
def test_work_that_is_over_is_freed_without_the_collector(stays: bool) -> None:
    async def scenario(bench: Bench) -> None:
        soon, job, _ = bench.ask(1)
        alive = weakref.ref(job)
        await asyncio.sleep(0)
        if not stays:
            soon.cancel()
        del soon, job
        await bench.finish()
        await asyncio.sleep(0)
        assert alive() is None

    gc.disable()
    try:
        run(scenario)
    finally:
        gc.enable()


def test_who_leaves_while_it_waits_is_never_run() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask(1)
        soon, _, caller = bench.ask(2)
        await asyncio.sleep(0)
        soon.cancel()
        soon.cancel()  # hurts nobody
        assert (bench.batcher.held, bench.released) == (1, [2])
        await bench.finish()
        assert (caller.heard, bench.ran, bench.released) == ([], [1], [2, 1])

    run(scenario)


def test_who_leaves_while_it_runs_gives_its_place_back_at_once_and_its_slot_at_the_end() -> None:
    async def scenario(bench: Bench) -> None:
        soon, job, caller = bench.ask(1)
        await asyncio.sleep(0)
        soon.cancel()
        assert (job.unwanted, bench.batcher.held, bench.released) == (True, 0, [])
        await bench.finish()
        assert (caller.heard, bench.released) == ([], [1])

    run(scenario)


def test_a_deadline_that_passed_before_is_heard_of_before_the_start_returns() -> None:
    async def scenario(bench: Bench) -> None:
        _, _, caller = bench.ask(1, deadline=0)
        assert (caller.heard, bench.batcher.held, bench.released) == ([DeadlineError], 0, [1])
        await bench.finish()
        assert bench.ran == []

    run(scenario)


def test_a_deadline_that_passes_in_the_queue_is_heard_of_and_frees_the_place() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask(1)
        _, _, caller = bench.ask(2, deadline=asyncio.get_running_loop().time() + 0.01)
        while not caller.heard:
            await asyncio.sleep(0.001)
        assert (caller.heard, bench.batcher.held, bench.released) == ([DeadlineError], 1, [2])
        await bench.finish()

    run(scenario)


def test_where_there_is_no_place_nothing_begins() -> None:
    async def scenario(bench: Bench) -> None:
        bench.ask(1), bench.ask(2)
        with pytest.raises(OverloadedError):
            bench.ask(3)
        assert (bench.batcher.held, bench.released) == (2, [])
        await bench.finish()

    run(scenario)


def test_behind_a_closed_door_nothing_begins_and_what_waits_is_told_so() -> None:
    async def scenario(bench: Bench) -> None:
        (_, _, one), (_, _, two) = bench.ask(1), bench.ask(2)
        assert not await bench.batcher.close(0)
        assert (one.heard, two.heard, bench.batcher.held) == ([StoppingError], [StoppingError], 0)
        with pytest.raises(StoppingError):
            bench.ask(3)
        with pytest.raises(ServiceError):  # as who was admitted before, and submits afterwards
            bench.batcher.hold(Job(4), Caller(), deadline=LATER)
        assert bench.batcher.held == 0
        assert bench.released == [2, 4]
        bench.gate.set()

    run(scenario)

"""The batcher with a runner that the test controls: every caller is answered exactly once, whatever happens."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import pytest

from calibox_server.batcher import Batcher
from calibox_server.errors import DeadlineError, OverloadedError, ServiceError, StoppingError
from calibox_server.queue import Policy, Priority
from tests.support.runners import in_task

LATER = 1e9  # a deadline that never comes
MATES = 4


class Runner:
    """Answers ``work * 10``; a batch waits while it is held, and fails or loses a result when told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.held: asyncio.Event | None = None
        self.error: Exception | None = None
        self.lose = 0

    def hold(self) -> None:
        self.held = asyncio.Event()

    def let_go(self) -> None:
        assert self.held is not None
        self.held.set()
        self.held = None

    async def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        return [work * 10 for work in batch][self.lose :]


class Bench:
    """A batcher with its runner, and what was released."""

    def __init__(
        self,
        *,
        max_batch: int = MATES,
        instances: int = 1,
        in_flight: int = 1,
        queue_size: int = 64,
        reserved: int = 0,
    ) -> None:
        self.runner = Runner()
        self.released: list[int] = []
        policy = Policy(max_batch=max_batch, max_delay=0.001, instances=instances, in_flight=in_flight)
        self.batcher: Batcher[int, int] = Batcher(
            in_task(self.runner), policy, queue_size=queue_size, reserved=reserved, release=self.released.append
        )

    async def ask(self, work: int, *, deadline: float = LATER, priority: Priority = Priority.NORMAL) -> int:
        with self.batcher.admit(1, priority=priority) as submit:
            return await submit(work, deadline=deadline, priority=priority)

    def call(self, work: int, **options: Any) -> asyncio.Task[int]:
        return asyncio.create_task(self.ask(work, **options))

    async def with_a_batch_in_flight(self, count: int) -> list[asyncio.Task[int]]:
        """``count`` callers, numbered from 1, whose one batch the engine holds."""
        self.runner.hold()
        plug = self.call(0)
        await settle()
        gate = self.runner.held
        self.runner.hold()
        calls = [self.call(i + 1) for i in range(count)]
        await settle()
        assert gate is not None
        gate.set()
        await plug
        await settle()
        return calls


async def settle() -> None:
    """Lets everything run that can run; no time has to pass for it."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), timeout=60))


async def outcome(call: Awaitable[int]) -> object:
    """A result, or the type of the error."""
    try:
        return await call
    except (ServiceError, asyncio.CancelledError) as error:
        return type(error)


def test_an_idle_engine_starts_at_once_with_whatever_is_there() -> None:
    async def scenario() -> None:
        bench = Bench()
        assert await bench.ask(3) == 30
        assert bench.runner.batches == [[3]]

    run(scenario)


def test_every_idle_instance_starts_before_anything_gathers() -> None:
    async def scenario() -> None:
        bench = Bench(instances=2, in_flight=2)
        bench.runner.hold()
        calls = [bench.call(i) for i in range(5)]
        await settle()
        assert bench.runner.batches == [[0], [1]]
        bench.runner.let_go()
        assert await asyncio.gather(*calls) == [0, 10, 20, 30, 40]
        assert bench.runner.batches == [[0], [1], [2, 3, 4]]

    run(scenario)


def test_an_engine_that_keeps_batches_ready_gets_one_when_its_delay_is_over() -> None:
    async def scenario() -> None:
        bench = Bench(in_flight=2)
        bench.runner.hold()
        first = bench.call(0)
        await settle()
        second, third = bench.call(1), bench.call(2)
        await settle()
        assert bench.runner.batches == [[0]]
        while len(bench.runner.batches) < 2:  # the delay is a millisecond
            await asyncio.sleep(0.001)
        assert bench.runner.batches == [[0], [1, 2]]
        bench.runner.let_go()
        assert await asyncio.gather(first, second, third) == [0, 10, 20]

    run(scenario)


@pytest.mark.parametrize("leaver", range(MATES))
def test_a_caller_that_leaves_a_running_batch_does_not_hurt_its_mates(leaver: int) -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = await bench.with_a_batch_in_flight(MATES)
        assert bench.runner.batches[1] == [1, 2, 3, 4]
        calls[leaver].cancel()
        await settle()
        assert leaver + 1 not in bench.released  # the engine still reads it
        bench.runner.let_go()
        results = [await outcome(call) for call in calls]
        assert results == [asyncio.CancelledError if i == leaver else (i + 1) * 10 for i in range(MATES)]
        assert sorted(bench.released) == [0, 1, 2, 3, 4]
        assert bench.batcher.held == 0

    run(scenario)


@pytest.mark.parametrize("leaver", range(MATES))
def test_a_caller_that_leaves_the_queue_never_reaches_the_engine(leaver: int) -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.runner.hold()
        plug = bench.call(0)
        await settle()
        calls = [bench.call(i + 1) for i in range(MATES)]
        await settle()
        calls[leaver].cancel()
        await settle()
        assert bench.released == [leaver + 1]
        assert bench.batcher.waiting == MATES - 1
        bench.runner.let_go()
        await plug
        results = [await outcome(call) for call in calls]
        assert results == [asyncio.CancelledError if i == leaver else (i + 1) * 10 for i in range(MATES)]
        assert bench.runner.batches[1] == [i + 1 for i in range(MATES) if i != leaver]
        assert sorted(bench.released) == [0, 1, 2, 3, 4]

    run(scenario)


def test_a_batch_whose_callers_all_left_is_not_run() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.runner.hold()
        plug = bench.call(0)
        await settle()
        calls = [bench.call(1), bench.call(2)]
        await settle()
        for call in calls:
            call.cancel()
        bench.runner.let_go()  # in the same turn of the loop: the callers have not noticed yet
        assert await plug == 0
        assert [await outcome(call) for call in calls] == [asyncio.CancelledError] * 2
        assert bench.runner.batches == [[0]]
        assert sorted(bench.released) == [0, 1, 2]

    run(scenario)


def test_a_runner_that_fails_fails_its_batch_and_nothing_else() -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = await bench.with_a_batch_in_flight(MATES)
        bench.runner.error = RuntimeError("out of memory")
        following = bench.call(9)
        await settle()
        bench.runner.let_go()
        for call in calls:
            with pytest.raises(ServiceError, match="the engine failed on this batch") as failure:
                await call
            assert failure.value.code == "internal_error"
            assert str(failure.value.__cause__) == "out of memory"
        assert await outcome(following) is ServiceError
        bench.runner.error = None
        assert await bench.ask(5) == 50
        assert sorted(bench.released) == [0, 1, 2, 3, 4, 5, 9]

    run(scenario)


def test_a_runner_that_loses_a_result_fails_its_whole_batch() -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = await bench.with_a_batch_in_flight(MATES)
        bench.runner.lose = 1
        bench.runner.let_go()
        for call in calls:
            with pytest.raises(ServiceError) as failure:
                await call
            assert str(failure.value.__cause__) == "3 results for 4 images"
        bench.runner.lose = 0
        assert await bench.ask(5) == 50

    run(scenario)


def test_a_deadline_that_passes_in_the_queue_ends_the_wait_while_the_engine_hangs() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.runner.hold()
        plug = bench.call(0)
        await settle()
        now = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineError, match="the deadline passed in the queue"):
            await bench.ask(1, deadline=now + 0.01)
        assert bench.released == [1]
        bench.runner.let_go()
        assert await plug == 0
        assert bench.runner.batches == [[0]]

    run(scenario)


def test_a_deadline_that_passes_in_the_engine_ends_the_wait_and_the_mates_stay() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.runner.hold()
        plug = bench.call(0)
        await settle()
        gate = bench.runner.held
        bench.runner.hold()
        now = asyncio.get_running_loop().time()
        hasty, patient = bench.call(1, deadline=now + 0.05), bench.call(2)
        await settle()
        assert gate is not None
        gate.set()
        await plug
        assert await outcome(hasty) is DeadlineError
        bench.runner.let_go()
        assert await patient == 20
        assert sorted(bench.released) == [0, 1, 2]

    run(scenario)


def test_each_of_many_deadlines_is_told_in_its_turn_whatever_the_order_they_came_in() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.runner.hold()
        plug = bench.call(0)
        await settle()
        start, ended = asyncio.get_running_loop().time(), dict[int, float]()
        after = [0.09, 0.03, 0.06, 0.03, 0.12]

        async def ask(work: int, seconds: float) -> None:
            assert await outcome(bench.ask(work, deadline=start + seconds)) is DeadlineError
            ended[work] = asyncio.get_running_loop().time() - start

        await asyncio.gather(*(ask(i + 1, seconds) for i, seconds in enumerate(after)))
        assert sorted(ended, key=lambda work: ended[work]) == [2, 4, 3, 1, 5]
        assert all(ended[i + 1] >= seconds for i, seconds in enumerate(after))
        assert sorted(bench.released) == [1, 2, 3, 4, 5]
        bench.runner.let_go()
        assert await plug == 0

    run(scenario)


def test_a_closed_batcher_is_free_at_once_though_deadlines_were_far() -> None:
    async def scenario() -> None:
        bench = Bench()
        assert await bench.ask(1, deadline=asyncio.get_running_loop().time() + 3600) == 10
        await bench.batcher.close(1)
        watched = weakref.ref(bench.batcher)
        del bench
        gc.collect()
        assert watched() is None

    run(scenario)


def test_a_deadline_that_has_passed_already_never_reaches_the_engine() -> None:
    async def scenario() -> None:
        bench = Bench()
        assert await outcome(bench.ask(1, deadline=0.0)) is DeadlineError
        assert bench.runner.batches == []
        assert bench.released == [1]

    run(scenario)


def test_a_full_queue_refuses_at_the_door_and_takes_again_when_there_is_room() -> None:
    async def scenario() -> None:
        bench = Bench(queue_size=3)
        bench.runner.hold()
        calls = [bench.call(i) for i in range(3)]
        await settle()
        with pytest.raises(OverloadedError, match="3 of 3 places in the queue are taken") as refusal:
            await bench.ask(9)
        assert int(refusal.value.headers["Retry-After"]) >= 1
        bench.runner.let_go()
        assert await asyncio.gather(*calls) == [0, 10, 20]
        assert await bench.ask(9) == 90
        assert 9 not in bench.runner.batches[0]

    run(scenario)


def test_places_for_many_are_taken_whole_or_not_at_all() -> None:
    async def scenario() -> None:
        bench = Bench(queue_size=3)
        with bench.batcher.admit(2):
            with pytest.raises(OverloadedError), bench.batcher.admit(2):
                pass
            assert bench.batcher.held == 2
        assert bench.batcher.held == 0

    run(scenario)


def test_closing_finishes_what_was_admitted_and_refuses_the_rest() -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = await bench.with_a_batch_in_flight(2)
        queued = bench.call(7)
        await settle()
        closing = asyncio.create_task(bench.batcher.close(timeout=60))
        await settle()
        assert await outcome(bench.ask(8)) is StoppingError
        assert not closing.done()
        bench.runner.let_go()
        assert await asyncio.gather(*calls, queued) == [10, 20, 70]
        await closing

    run(scenario)


def test_closing_an_engine_that_hangs_answers_everybody() -> None:
    async def scenario() -> None:
        bench = Bench()
        calls = await bench.with_a_batch_in_flight(2)
        queued = bench.call(7)
        await settle()
        await bench.batcher.close(timeout=0)
        assert [await outcome(call) for call in [*calls, queued]] == [StoppingError] * 3
        bench.runner.let_go()
        await settle()
        assert sorted(bench.released) == [0, 1, 2, 7]

    run(scenario)


def test_closing_waits_for_a_batch_whose_callers_have_left() -> None:
    async def scenario() -> None:
        bench = Bench()
        (call,) = await bench.with_a_batch_in_flight(1)
        call.cancel()
        closing = asyncio.create_task(bench.batcher.close(timeout=60))
        await settle()
        assert bench.batcher.held == 0
        assert not closing.done()
        bench.runner.let_go()
        await closing
        assert bench.released == [0, 1]

    run(scenario)


def test_work_that_was_admitted_but_comes_after_the_end_is_refused() -> None:
    async def scenario() -> None:
        bench = Bench()
        with bench.batcher.admit(1) as submit:
            await bench.batcher.close(timeout=0)
            assert await outcome(submit(1, deadline=LATER)) is StoppingError
        assert bench.runner.batches == []
        assert bench.released == [1]

    run(scenario)


def test_closing_an_idle_batcher_returns_at_once() -> None:
    async def scenario() -> None:
        await Bench().batcher.close(timeout=60)

    run(scenario)


def test_the_high_priority_goes_first() -> None:
    async def scenario() -> None:
        bench = Bench(max_batch=2)
        bench.runner.hold()
        plug = bench.call(0)
        await settle()
        calls = [bench.call(i) for i in (1, 2)] + [bench.call(i, priority=Priority.HIGH) for i in (3, 4)]
        await settle()
        bench.runner.let_go()
        assert await asyncio.gather(plug, *calls) == [0, 10, 20, 30, 40]
        assert bench.runner.batches == [[0], [3, 4], [1, 2]]

    run(scenario)


def test_reserved_places_are_for_the_high_priority() -> None:
    async def scenario() -> None:
        bench = Bench(queue_size=3, reserved=1)
        bench.runner.hold()
        calls = [bench.call(i) for i in range(2)]
        await settle()
        with pytest.raises(OverloadedError, match="2 of 2 places in the queue are taken"):
            await bench.ask(9)
        calls.append(bench.call(2, priority=Priority.HIGH))
        await settle()
        with pytest.raises(OverloadedError, match="3 of 3 places in the queue are taken"):
            await bench.ask(9, priority=Priority.HIGH)
        bench.runner.let_go()
        assert await asyncio.gather(*calls) == [0, 10, 20]

    run(scenario)


def test_work_that_turns_out_larger_takes_more_places_even_while_closing() -> None:
    async def scenario() -> None:
        bench = Bench(queue_size=3)
        with bench.batcher.admit(1):
            closing = asyncio.create_task(bench.batcher.close(timeout=60))
            await settle()
            with bench.batcher.admit(2, more=True) as submit:
                assert bench.batcher.held == 3
                assert await submit(4, deadline=LATER) == 40
            with pytest.raises(OverloadedError), bench.batcher.admit(3, more=True):
                pass
        assert await closing

    run(scenario)

"""Images between a front end and the engine process: asked, answered, handed on, given up."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from calibox_core.bundle import read_bundle
from calibox_server.engine_line import EngineLine
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.errors import (
    DeadlineError,
    StoppingError,
)
from calibox_server.metrics import Metrics
from calibox_server.queue import Policy, Priority
from calibox_server.workers import messages
from calibox_server.workers.channel import Channel, pair
from calibox_server.workers.desk import Desk
from calibox_server.workers.front_link import FrontLink, Offered
from calibox_server.workers.messages import Answer, Ask, code_of_error, error_of, pack_answer, read_asks
from calibox_server.workers.remote_line import RemoteLine
from calibox_server.workers.slab import Layout, SharedSlots
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S, GatedEngine
from tests.support.worker_parts import LATER, LAYOUT, PARAMETERS, ROWS, run

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


class Bench:
    """A line of three places in front of an engine process that is played by the test."""

    def __init__(self) -> None:
        self.slots = SharedSlots(LAYOUT, count=3, keep=3)
        self.desk = Desk()
        self.line = RemoteLine(self.slots, self.desk, queue_size=3)
        self.said: list[Ask] = []
        self.desk.note = lambda record: self.said.extend(read_asks(record))  # type: ignore[method-assign]

    async def ask(self, deadline: float = LATER) -> RawDetections:
        with self.line.admit(1) as submit:
            work = Work(self.slots.take(), PARAMETERS, 2, clock())
            return await submit(work, deadline=deadline, priority=Priority.HIGH)

    async def start(self, count: int = 1, deadline: float = LATER) -> list[asyncio.Task[RawDetections]]:
        tasks = [asyncio.create_task(self.ask(deadline)) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    def answer(self, ask: Ask) -> None:
        count = self.slots.write_rows(ask.slot, ROWS)
        self.desk.received(pack_answer(0, 1, count, ask.number, 0.25))

    def is_idle(self) -> bool:
        return self.slots.free == 3 and self.line.held == 0 and self.line.waiting == 0


def test_an_image_is_asked_with_its_parameters_and_answered_with_its_rows() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.line.connect(41)
        (task,) = await bench.start()
        (ask,) = bench.said
        assert (ask.kind, ask.model, ask.slot, ask.refine_steps, ask.deadline) == (messages.ASK, 41, 0, 2, LATER)
        assert (ask.a, ask.b, ask.g, ask.score_threshold, ask.iou_threshold) == (1.0, 0.5, 0.25, 0.1, 0.6)
        assert messages.priority_of(ask.priority) is Priority.HIGH
        bench.answer(ask)
        raw = await task
        assert raw.rows.boxes.tolist() == ROWS.boxes.tolist()
        assert (raw.engine, raw.batch) == (0.25, 1)
        assert bench.is_idle()

    run(scenario())


def test_what_an_engine_process_had_goes_to_its_successor_and_is_answered_once() -> None:
    async def scenario() -> None:
        bench = Bench()
        waiting = await bench.start()  # there is no engine process yet
        assert (bench.said, bench.line.waiting) == ([], 1)
        bench.line.connect(1)
        waiting += await bench.start()
        assert [ask.model for ask in bench.said] == [1, 1]
        bench.answer(bench.said[0])
        bench.line.connect(None)
        bench.said.clear()
        bench.line.connect(9)
        (again,) = bench.said
        assert again.model == 9
        bench.answer(again)
        assert all([await task for task in waiting])
        assert bench.is_idle()

    run(scenario())


def test_a_caller_that_leaves_frees_its_slot_only_when_the_engine_process_is_done_with_it() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.line.connect(1)
        tasks = await bench.start(2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        asked, cancelled = bench.said[:2], bench.said[2:]
        assert [(c.kind, c.number) for c in cancelled] == [(messages.CANCEL, a.number) for a in asked]
        assert (bench.slots.free, bench.line.held) == (1, 0)
        bench.answer(asked[0])
        assert bench.slots.free == 2
        bench.line.connect(None)  # it will never say
        assert bench.is_idle()

    run(scenario())


def test_a_deadline_that_passes_is_told_to_the_caller_and_to_the_engine_process() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.line.connect(1)
        (task,) = await bench.start(deadline=clock() + 0.001)
        with pytest.raises(DeadlineError, match="timeout_ms"):
            await task
        assert bench.said[-1].kind == messages.CANCEL
        bench.answer(bench.said[0])
        assert bench.is_idle()

    run(scenario())


def test_errors_of_the_engine_process_are_the_caller_s() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.line.connect(1)
        (task,) = await bench.start()
        length = bench.slots.write_sentence(bench.said[0].slot, "the engine failed")
        bench.desk.received(pack_answer(code_of_error(StoppingError("")), 0, length, bench.said[0].number, 0.0))
        with pytest.raises(StoppingError, match="the engine failed"):
            await task
        assert bench.is_idle()

    run(scenario())


def test_closing_waits_for_what_was_admitted_and_then_ends_the_rest() -> None:
    async def scenario() -> None:
        bench = Bench()
        bench.line.connect(1)
        (task,) = await bench.start()
        closing = asyncio.create_task(bench.line.close(PATIENCE_S))
        await asyncio.sleep(0)
        with pytest.raises(StoppingError):
            bench.line.check(1)
        assert not closing.done()
        bench.answer(bench.said[0])
        assert await closing
        assert await task
        late = Bench()
        (stuck,) = await late.start()
        assert not await late.line.close(0.0)
        with contextlib.suppress(asyncio.CancelledError), pytest.raises(StoppingError):
            await stuck
        assert late.is_idle()

    run(scenario())


def test_images_of_a_front_end_that_leaves_do_not_run_and_hold_up_nothing(tmp_path: Path) -> None:
    bundle = read_bundle(make_tiny_bundle(tmp_path))
    engine = GatedEngine(bundle)
    layout = Layout.of(bundle.manifest)
    slots = SharedSlots(layout, count=4, keep=4)

    async def scenario() -> None:
        policy = Policy(max_batch=1, max_delay=0.0, instances=1, in_flight=1)
        line = EngineLine(bundle.manifest, engine, policy=policy, queue_size=4, metrics=Metrics().model("tiny", "1"))
        ours, theirs = pair()
        gone, answered = asyncio.Event(), asyncio.Event()
        answers: list[Answer] = []

        def received(packet: bytes, _: list[int]) -> None:
            answers.extend(messages.read_answers(packet))
            answered.set()

        link = FrontLink(theirs, lambda *_: None, lambda _: gone.set())
        link.invite(5, Offered(line, layout))
        front = Channel(ours, received, lambda: None)
        front.send(messages.head(messages.SLAB, 5), [slots.copy_of_fd()])
        engine.gate.clear()
        for number in range(1, 4):
            front.note(messages.pack_ask(Ask(messages.ASK, 0, 0, 5, number, 0, number, 1, 0.5, 0.25, 0, 0.6, LATER)))
        front.note(messages.pack_cancel(3))
        front.note(messages.pack_ask(Ask(messages.ASK, 0, 0, 6, 0, 0, 4, 1, 0.5, 0.25, 0, 0.6, LATER)))  # no such model
        await answered.wait()
        assert [(a.number, type(error_of(a.code, ""))) for a in answers] == [(3, StoppingError), (4, StoppingError)]
        assert line.waiting == 1
        engine.wait_for_run()  # the first one
        closing = asyncio.create_task(line.close(PATIENCE_S))
        front.close()
        await gone.wait()
        assert line.waiting == 0
        engine.gate.set()
        assert await closing
        assert len(engine.batches) == 1

    run(scenario())

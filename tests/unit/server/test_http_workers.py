"""What several processes of one server share: packets, slots, places, rates, metrics, connections, images."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.bundle import read_bundle
from calibox_core.fusion import Exponents
from calibox_server.engine import EngineOutput
from calibox_server.engine_line import EngineLine
from calibox_server.engine_runner import RawDetections, Work, clock
from calibox_server.errors import (
    PROBLEMS,
    DeadlineError,
    EngineAwayError,
    OverloadedError,
    StoppingError,
    UnknownModelError,
)
from calibox_server.metrics import Metrics
from calibox_server.models import BrokenModel, Models
from calibox_server.parameters import Parameters
from calibox_server.pipeline import Pipeline
from calibox_server.queue import Policy, Priority
from calibox_server.rate import Rate
from calibox_server.workers import catalogue, messages
from calibox_server.workers.catalogue import Catalogue, FarEngine, Offer
from calibox_server.workers.channel import MAX_PACKET, Channel, pair
from calibox_server.workers.children import Child, Patience
from calibox_server.workers.dealer import Dealer
from calibox_server.workers.desk import Desk
from calibox_server.workers.exposition import counted, merged, parse
from calibox_server.workers.far_repository import FarRepository
from calibox_server.workers.front_link import FrontLink, Offered
from calibox_server.workers.gathering import Gathering
from calibox_server.workers.messages import Answer, Ask, code_of_error, error_of, pack_answer, read_asks
from calibox_server.workers.places import Places, SharedHeld
from calibox_server.workers.rates import SharedLimiter
from calibox_server.workers.remote_line import RemoteLine
from calibox_server.workers.shared import new_document, new_text, read_document, read_text
from calibox_server.workers.slab import Layout, SharedSlots, Slab
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S, GatedEngine
from tests.support.manifests import small_manifest

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
LAYOUT = Layout(height=4, width=5, rows=3)
ROWS = EngineOutput(
    np.array([2], np.int32),
    np.arange(8, dtype=np.float32).reshape(2, 4),
    np.array([7, 1], np.int32),
    *(np.array([i, i + 0.5], np.float32) for i in range(3)),
)
PARAMETERS = Parameters(Exponents(1.0, 0.5, 0.25), 0.1, 0.6, 10, None, (0,), 1000.0)
LATER = 1e9  # a deadline that never comes


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


def test_packets_come_whole_and_in_order_with_their_descriptors() -> None:
    async def scenario() -> None:
        got: list[tuple[bytes, list[bytes]]] = []
        whole, lost = asyncio.Event(), asyncio.Event()

        def received(packet: bytes, fds: list[int]) -> None:
            got.append((packet, [read_text(fd) for fd in fds]))
            if len(got) == len(wanted):
                whole.set()

        one, other = pair()
        far = Channel(other, received, lost.set)
        near = Channel(one, lambda *_: None, lambda: None)
        long = b"x" * MAX_PACKET
        wanted: list[tuple[bytes, list[bytes]]] = [(b"ab", []), (b"c", [b"one", b"two"]), *[(long, [])] * 20]
        near.note(b"a")
        near.note(b"b")  # with the one before, in one packet, before what is sent afterwards
        near.send(b"c", [new_text(b"one"), new_text(b"two")])
        for _ in range(20):  # more than the socket holds at once
            near.send(long)
        await whole.wait()
        assert got == wanted
        near.close()
        await lost.wait()
        assert far.closed

    run(scenario())


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_last_words_are_heard_of_a_process_that_listens_no_more(make_loop: Callable[[], Any]) -> None:
    async def scenario() -> None:
        heard: list[bytes] = []
        lost = asyncio.Event()
        one, other = pair()
        near = Channel(one, lambda packet, _: heard.append(packet), lost.set)
        near.send(b"never read")
        near.send(b"nor this", [new_text(b"text")])
        other.send(b"the end")
        other.send(b"really")
        other.close()
        near.send(b"to nobody", [new_text(b"text")])
        await lost.wait()
        assert heard == [b"the end", b"really"]
        near.send(b"too late", [new_text(b"text")])  # and its descriptor is closed

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(asyncio.wait_for(scenario(), PATIENCE_S))


def test_documents_of_any_length_cross_in_shared_memory() -> None:
    document = {"long": "é" * 100_000, "list": [1, None]}
    assert read_document(new_document(document)) == document


def test_questions_and_answers_come_back_as_they_were() -> None:
    ask = Ask(messages.ASK, 1, 0, 9, 17, 3, 2**40, 1.0, 0.5, 0.25, -0.75, 0.6, 123.456)
    assert read_asks(messages.pack_ask(ask) + messages.pack_cancel(8))[0] == ask
    assert read_asks(messages.pack_cancel(8))[0][::6] == (messages.CANCEL, 8, 0)
    assert messages.read_answers(pack_answer(0, 4, 2, 2**40, 0.5)) == [(messages.ANSWER, 0, 4, 2, 2**40, 0.5)]
    assert [messages.priority_of(messages.code_of(priority)) for priority in Priority] == list(Priority)


@pytest.mark.parametrize("kind", PROBLEMS, ids=lambda kind: kind.code)
def test_every_error_comes_back_as_its_kind(kind: Any) -> None:
    error = messages.error_named(kind.code, "it went wrong")
    again = error_of(code_of_error(error), str(error))
    assert type(again) is type(error) is kind
    assert str(again) == "it went wrong"


def test_rows_and_sentences_come_back_from_another_mapping_of_the_slot() -> None:
    slots = SharedSlots(LAYOUT, count=3, keep=3)
    fd = slots.copy_of_fd()
    far = Slab(fd, LAYOUT)
    os.close(fd)
    slot = slots.take()
    slot[:] = 200
    index = slots.keep_for_engine(slot)
    assert (far.image(index) == 200).all()
    assert far.write_rows(index, ROWS) == 2
    for name, array in slots.read_rows(index, 2)._asdict().items():
        assert array.tolist() == getattr(ROWS, name).tolist()
        assert array.dtype == getattr(ROWS, name).dtype
    assert (far.image(index) == 200).all()
    length = far.write_sentence(index, "zu spät " * 1000)  # longer than its room
    assert slots.read_sentence(index, length).startswith("zu spät zu spät ")
    assert far.write_rows(index, EngineOutput(*(array[:0] for array in ROWS))) == 0
    assert slots.read_rows(index, 0).boxes.shape == (0, 4)


def test_more_rows_than_there_is_room_for_are_cut_to_it() -> None:
    slots = SharedSlots(Layout(height=4, width=5, rows=1), count=2, keep=2)
    assert slots.write_rows(0, ROWS) == 1
    assert slots.read_rows(0, 1).labels.tolist() == [7]


def test_the_lowest_free_slot_is_taken_and_forgotten_ones_come_back() -> None:
    slots = SharedSlots(LAYOUT, count=3, keep=1)
    first, second = slots.take(), slots.take()
    first[:], second[:] = 1, 2
    assert slots.keep_for_engine(second) == 1
    slots.give(first)
    again = slots.take()
    assert (again == 1).all()  # the same pages
    slots.release(1)
    assert slots.free == 2
    assert not slots.take().any()  # beyond those that are kept, pages are given back to the system
    gc.collect()
    assert slots.free == 2  # nobody gave it back; nobody has it
    held = [slots.take(), slots.take()]
    with pytest.raises(OverloadedError, match="all 3 images"):
        slots.take()
    slots.give(np.empty(LAYOUT.height * LAYOUT.width * 3, np.uint8))  # somebody else's memory is let go
    del held, again
    assert slots.free == 3


def test_pixels_of_other_memory_are_copied_into_a_slot() -> None:
    slots = SharedSlots(LAYOUT, count=1, keep=1)
    pixels = np.full((4, 5, 3), 9, np.uint8)
    assert slots.keep_for_engine(pixels) == 0
    assert (slots.image(0) == 9).all()
    with pytest.raises(OverloadedError):
        slots.keep_for_engine(pixels)


def test_places_are_summed_over_processes_and_forgotten_with_them() -> None:
    page = Places.new(3)
    helds = [SharedHeld(Places(page, 3, own), model=5) for own in range(3)]
    other = SharedHeld(Places(page, 3, 1), model=6)
    for own, held in enumerate(helds):
        held.change(own + 1)
    other.change(10)
    assert [held.all for held in helds] == [6, 6, 6]
    assert [held.own for held in helds] == [1, 2, 3]
    helds[1].move(7)  # as another engine process calls the model
    assert (helds[0].all, helds[1].all, other.all) == (4, 2, 10)
    Places(page, 3, 0).forget(2)
    assert helds[0].all == 1


TAKE_40 = """
import sys
from calibox_server.rate import Rate
from calibox_server.workers.rates import SharedLimiter
limiter = SharedLimiter(int(sys.argv[1]), Rate(per_second=1.0, burst=50.0))
print(sum(limiter.take("ann", 1, 0.0) == 0 for _ in range(40)))
"""


def test_a_rate_holds_for_all_processes_together() -> None:
    table = SharedLimiter.new_table()
    command = [sys.executable, "-c", TAKE_40, str(table)]
    processes = [subprocess.Popen(command, pass_fds=[table], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    counts = [int(process.communicate(timeout=PATIENCE_S)[0]) for process in processes]
    assert sum(counts) == 50
    limiter = SharedLimiter(table, Rate(per_second=1.0, burst=50.0))
    assert limiter.take("ann", 1, 0.0) == pytest.approx(1.0)
    assert limiter.take("bob", 50, 0.0) == 0
    assert limiter.take("ann", 3, 3.0) == 0
    assert limiter.take("ann", 20, 3.0, owe=True) == 0
    assert limiter.take("ann", 1, 4.0) == pytest.approx(20.0)
    os.close(table)


@given(st.lists(st.sampled_from(["deal", "close", "die"]), max_size=60), st.integers(1, 4))
def test_the_front_end_with_the_fewest_connections_gets_the_next_one(steps: list[str], fronts: int) -> None:
    dealer = Dealer()
    opened, received = [0] * fronts, [0] * fronts
    for front in range(fronts):
        dealer.join(front)
    for step in steps:
        if step == "deal":
            front = dealer.deal()
            assert opened[front] == min(opened)
            opened[front] += 1
            received[front] += 1
        elif step == "close":
            opened[0] = max(0, opened[0] - 1)
        else:
            dealer.leave(0)
            dealer.join(0)
            opened[0] = received[0] = 0
        for front in range(fronts):
            dealer.told(front, received[front], opened[front])


def test_connections_that_come_at_once_are_dealt_out_evenly() -> None:
    dealer = Dealer()
    for front in range(3):
        dealer.join(front)
    assert sorted(dealer.deal() for _ in range(9)) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    dealer.leave(1)
    assert [dealer.deal() for _ in range(2)] == [0, 2]
    dealer.told(1, 5, 5)  # its last words


def test_a_process_that_dies_again_and_again_is_started_ever_later() -> None:
    patience = Patience()
    assert [patience.after(1.0) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert patience.after(31.0) == 0.1  # it lived well


ONE = """\
# HELP requests_total Requests.
# TYPE requests_total counter
requests_total{code="ok"} 3.0
requests_total{code="late"} 1.0
# HELP calibox_uptime_seconds Since.
# TYPE calibox_uptime_seconds gauge
calibox_uptime_seconds 5.5
# HELP process_resident_memory_bytes Memory.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1e+06
# HELP depth Waiting.
# TYPE depth gauge
depth{model="a b"} 2.0
# HELP time Seconds.
# TYPE time histogram
time_bucket{le="1.0"} 2
time_sum 1.25
"""
OTHER = ONE.replace('code="late"', 'code="bad"').replace("5.5", "7.5")


def test_metrics_of_processes_become_one_text() -> None:
    families = parse(merged({"front-1": ONE, "engine": OTHER, "": ONE}))
    assert families["requests_total"].values == {
        'requests_total{code="ok"}': 9.0,
        'requests_total{code="late"}': 2.0,
        'requests_total{code="bad"}': 1.0,
    }
    assert families["calibox_uptime_seconds"].values == {"calibox_uptime_seconds": 7.5}
    assert families["process_resident_memory_bytes"].values == {
        'process_resident_memory_bytes{process="front-1"}': 1e6,
        'process_resident_memory_bytes{process="engine"}': 1e6,
    }
    assert families["depth"].values == {'depth{model="a b"}': 4.0}  # the past has no gauges
    assert families["time"].values == {'time_bucket{le="1.0"}': 6.0, "time_sum": 3.75}
    assert families["time"].head == ["# HELP time Seconds.", "# TYPE time histogram"]
    assert set(parse(counted(ONE))) == {"requests_total", "time"}


def test_a_catalogue_comes_back_as_it_was() -> None:
    offers = (Offer(3, small_manifest(), FarEngine("x 1.0 (CPU)", 8, 2, 3)),)
    broken, index = BrokenModel("b", "1", "cut short"), {"name": "b", "version": "1", "state": "UNAVAILABLE"}
    written = catalogue.write(offers, Models(broken=[broken]), [index])
    assert catalogue.read(read_document(new_document(written))) == Catalogue(offers, (broken,), (index,))


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
        assert line.waiting == 1  # the first one runs
        closing = asyncio.create_task(line.close(PATIENCE_S))
        front.close()
        await gone.wait()
        assert line.waiting == 0
        engine.gate.set()
        assert await closing
        assert len(engine.batches) == 1

    run(scenario())


class Post:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, list[int]]] = []  # kind, number, descriptors

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        self.sent.append((*messages.read_head(packet), list(fds)))

    def note(self, record: bytes) -> None:
        pass


def offer(model: int, **changes: Any) -> Offer:
    return Offer(model, small_manifest(**changes), FarEngine("x 1.0 (CPU)", 1, 1, 1))


class Front:
    """The models of one front end, whose engine process is played by the test."""

    def __init__(self) -> None:
        self.page = Places.new(2)
        self.desk = Desk()
        self.repository = FarRepository(self.desk, self.make_pipeline)
        self.models = self.repository.models
        self.post = Post()
        self.number = 0

    def make_pipeline(self, offer: Offer) -> Pipeline:
        line = RemoteLine(
            SharedSlots(Layout.of(offer.manifest), count=2, keep=2),
            self.desk,
            queue_size=2,
            held=SharedHeld(Places(self.page, 2, 1), offer.model),
        )
        counted = Metrics().model(offer.manifest.name, offer.manifest.version)
        return Pipeline(offer.manifest, offer.engine, line, decoders=None, max_pixels=1, metrics=counted)  # type: ignore[arg-type]

    def engine_comes(self, *offers: Offer) -> None:
        self.post = Post()
        self.repository.engine_came(self.post)  # type: ignore[arg-type]
        self.apply(*offers)

    def apply(self, *offers: Offer) -> None:
        self.number += 1
        self.repository.apply(Catalogue(offers, (), ()), self.number)

    async def ask(self) -> asyncio.Task[RawDetections]:
        line = self.models.find(None, None).line

        async def submit() -> RawDetections:
            with line.admit(1) as hand_in:
                return await hand_in(Work(line.slots.take(), PARAMETERS, 0, clock()), deadline=LATER)

        task = asyncio.create_task(submit())
        await asyncio.sleep(0)
        return task

    def kinds(self) -> list[tuple[int, int]]:
        return [(kind, number) for kind, number, _ in self.post.sent]


def test_a_catalogue_is_applied_and_told_and_an_old_version_is_let_go_once_it_is_idle() -> None:
    async def scenario() -> None:
        front = Front()
        front.engine_comes(offer(1))
        first = front.models.find(None, None)
        assert front.kinds() == [(messages.SLAB, 1), (messages.APPLIED, 1)]
        asked = await front.ask()
        front.apply(offer(2, description="again"))
        assert front.models.find(None, None) is not first
        await asyncio.sleep(0)
        assert (messages.LET_GO, 1) not in front.kinds()
        asked.cancel()
        await asyncio.wait([asked])
        await front.repository.close(PATIENCE_S)
        assert front.kinds()[2:] == [(messages.SLAB, 2), (messages.APPLIED, 2), (messages.LET_GO, 1)]

    run(scenario())


def test_after_the_engine_process_ended_the_same_bundle_goes_on_and_a_changed_one_ends_what_waited() -> None:
    async def scenario() -> None:
        front = Front()
        front.engine_comes(offer(1), offer(2, name="other"))
        pipelines = list(front.models)
        front.repository.engine_left()
        front.engine_comes(offer(7), offer(8, name="other"))  # as its successor calls them
        assert list(front.models) == pipelines
        front.apply(offer(7))
        assert len(list(front.models)) == 1
        asked = await front.ask()
        front.repository.engine_left()
        with pytest.raises(EngineAwayError):
            await front.repository.load("cells")
        front.engine_comes(offer(9, description="changed"))
        with pytest.raises(StoppingError):
            await asked
        assert front.models.find(None, None) not in pipelines

    run(scenario())


def test_a_change_is_asked_of_the_engine_process_and_its_refusal_is_raised() -> None:
    async def scenario() -> None:
        front = Front()
        front.engine_comes(offer(1))
        loading = asyncio.create_task(front.repository.load("cells", again=True))
        await asyncio.sleep(0)
        kind, number, (fd,) = front.post.sent[-1]
        assert kind == messages.CHANGE
        assert read_document(fd) == {"name": "cells", "version": None, "again": True, "unload": False}
        front.repository.told(number, {"loaded": [["cells", "1"]], "unloaded": []})
        assert (await loading).loaded == [("cells", "1")]
        unloading = asyncio.create_task(front.repository.unload("none"))
        await asyncio.sleep(0)
        front.repository.told(front.post.sent[-1][1], {"code": "unknown_model", "detail": "there is none"})
        with pytest.raises(UnknownModelError, match="there is none"):
            await unloading
        lost = asyncio.create_task(front.repository.unload("cells"))
        await asyncio.sleep(0)
        front.repository.engine_left()
        with pytest.raises(EngineAwayError):
            await lost

    run(scenario())


def test_metrics_are_gathered_from_whoever_answers_and_what_the_dead_counted_stays() -> None:
    async def scenario() -> None:
        posts = [Post() for _ in range(3)]
        children = [
            Child(i, None, post, 0.0, ready=True)  # type: ignore[arg-type]
            for i, post in enumerate(posts)
        ]
        gathering = Gathering()

        def asked(of: Post) -> int:
            kind, number, _ = of.sent.pop()
            assert kind == messages.SNAPSHOT
            return number

        def told() -> dict[str, str]:
            kind, number, (fd,) = posts[1].sent.pop()
            assert (kind, number) == (messages.SNAPSHOTS, 0)
            texts = read_document(fd)
            assert isinstance(texts, dict)
            return texts

        gathering.told(children[1], 0, ONE, children)
        gathering.told(children[0], asked(posts[0]), OTHER, children)
        gathering.told(children[2], asked(posts[2]), ONE, children)
        assert {name: text for name, text in told().items() if text in (ONE, OTHER)} == {
            "front-1": ONE,
            "engine": OTHER,
            "front-2": ONE,
        }
        gathering.told(children[1], 0, ONE, children)
        gathering.told(children[0], asked(posts[0]), OTHER, children)
        gathering.ended(children[2])  # instead of an answer
        texts = told()
        assert set(texts) == {"front-1", "engine", "supervisor", ""}
        values = parse(merged(texts))
        assert values["requests_total"].values['requests_total{code="ok"}'] == 9.0
        assert values["calibox_process_ends_total"].values == {'calibox_process_ends_total{process="front-2"}': 1.0}

    run(scenario())

"""What several processes of one server share: packets, slots, places, rates, metrics, connections, images."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from calibox_server.engine import CandidateOutput, EngineOutput
from calibox_server.errors import (
    PROBLEMS,
    OverloadedError,
)
from calibox_server.models import BrokenModel, Models
from calibox_server.queue import Priority
from calibox_server.rate import Rate
from calibox_server.workers import catalogue, messages
from calibox_server.workers.catalogue import Catalogue, FarEngine, Offer
from calibox_server.workers.channel import MAX_PACKET, Channel, pair
from calibox_server.workers.children import Patience, Pulse
from calibox_server.workers.dealer import Dealer
from calibox_server.workers.messages import Ask, code_of_error, error_of, pack_answer, read_asks
from calibox_server.workers.places import Places, SharedHeld
from calibox_server.workers.rates import SharedLimiter
from calibox_server.workers.shared import new_document, new_text, read_document, read_text
from calibox_server.workers.slab import Layout, SharedSlots, Slab
from tests.support.gated_engine import PATIENCE_S
from tests.support.manifests import small_manifest
from tests.support.worker_parts import LAYOUT, ROWS, run

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")


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


def test_candidates_come_back_from_another_mapping_beside_pixels_and_rows() -> None:
    layout = Layout(height=4, width=5, rows=3, candidates=2)
    found = CandidateOutput(
        np.arange(8, dtype=np.float32).reshape(2, 4),
        np.array([3, -1], np.int32),
        np.array([0.5, 0], np.float32),
        np.array([0.25, 0], np.float32),
    )
    slots = SharedSlots(layout, count=2, keep=2)
    fd = slots.copy_of_fd()
    far = Slab(fd, layout)
    os.close(fd)
    for index in (0, 1):
        far.image(index)[:] = 200
        far.write_rows(index, ROWS)
    far.write_candidates(0, found)
    for name, array in slots.read_candidates(0)._asdict().items():
        np.testing.assert_array_equal(array, getattr(found, name))
        assert array.dtype == getattr(found, name).dtype
    for index in (0, 1):
        assert (slots.image(index) == 200).all()
        np.testing.assert_array_equal(slots.read_rows(index, 2).scores, ROWS.scores)


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


def test_a_process_hangs_when_it_owes_an_answer_for_too_long_or_an_engine_runs_for_too_long() -> None:
    pulse = Pulse()
    assert pulse.hangs(1e9, 60.0) == ""  # nobody asked it
    pulse.asked = 100.0
    assert pulse.hangs(160.0, 60.0) == ""
    assert pulse.hangs(160.5, 60.0) == "no sign of life for 60.5 s"
    pulse.answered(run=59.0)
    assert pulse.hangs(1e9, 60.0) == ""
    pulse.answered(run=61.0)
    assert pulse.hangs(161.0, 60.0) == "a run of an engine has been going on for 61.0 s"
    pulse.answered(run=0.0)
    assert pulse.hangs(162.0, 60.0) == ""


def test_a_process_that_dies_again_and_again_is_started_ever_later() -> None:
    patience = Patience()
    assert [patience.after(1.0) for _ in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert patience.after(31.0) == 0.1  # it lived well


def test_a_catalogue_comes_back_as_it_was() -> None:
    offers = (Offer(3, small_manifest(), FarEngine("x 1.0 (CPU)", 8, 2, 3)),)
    broken, index = BrokenModel("b", "1", "cut short"), {"name": "b", "version": "1", "state": "UNAVAILABLE"}
    written = catalogue.write(offers, Models(broken=[broken]), [index])
    assert catalogue.read(read_document(new_document(written))) == Catalogue(offers, (broken,), (index,))

"""Bookkeeping of a stream, against the rules of the server played in a few lines."""

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_client import ApiError, BadReplyError, OverloadedError
from calibox_client.streaming.flow import Flow

IMAGE = b"a frame"


def found(number: int) -> str:
    """The server's answer to the frame that has this number on its connection."""
    result = {"width": 8 + number, "height": 6, "detections": []}
    return json.dumps({"frame": number, "model": "m", "version": "1", "results": [result], "timing": {}})


def dropped(number: int) -> str:
    return json.dumps({"frame": number, "dropped": True})


def refused(number: int | None, status: int, code: str = "unreadable_image") -> str:
    problem = {"status": status, "code": code, "detail": "a sentence"}
    return json.dumps({"error": problem} | ({} if number is None else {"frame": number}))


def flow_of(*, live: bool = False, ahead: int = 4, attempts: int = 3) -> Flow:
    return Flow(ahead=ahead, live=live, attempts=attempts)


def put(flow: Flow, count: int) -> None:
    for _ in range(count):
        flow.put(IMAGE)


def test_frames_leave_in_their_order_as_far_ahead_as_told() -> None:
    flow = flow_of(ahead=3)
    put(flow, 3)
    assert not flow.has_room
    assert [flow.send().number for _ in range(3)] == [0, 1, 2]
    assert not flow.can_send
    assert flow.answered(found(0)) is None
    assert flow.can_take
    assert not flow.has_room  # the answer is in memory until it is taken
    answer = flow.take()
    assert (answer.number, answer.image, answer.detections.width, answer.dropped) == (0, IMAGE, 8, 0)
    assert flow.has_room


def test_a_dropped_frame_is_sent_again_and_its_answer_comes_in_its_turn() -> None:
    flow = flow_of(ahead=4)
    put(flow, 4)
    while flow.can_send:
        flow.send()
    flow.answered(found(0))
    flow.answered(dropped(1))
    assert flow.send().number == 1  # the fifth message: number 4 on the connection
    flow.answered(found(2))
    flow.answered(found(3))
    assert flow.take().number == 0
    assert not flow.can_take  # 2 and 3 are there, but 1 is not
    flow.answered(found(4))
    widths = [flow.take().detections.width for _ in range(3)]
    assert widths == [8 + 4, 8 + 2, 8 + 3]
    put(flow, 4)
    assert len([flow.send() for _ in range(3)]) == 3
    assert not flow.can_send  # it has learnt that this server takes three at once


def test_a_frame_that_the_server_is_too_busy_for_is_sent_a_few_times() -> None:
    flow = flow_of(attempts=2)
    put(flow, 1)
    flow.send()
    busy = flow.answered(refused(0, 429, "overloaded"))
    assert busy is not None
    assert isinstance(busy.error, OverloadedError)
    assert busy.tries == 1
    flow.send()
    assert flow.answered(refused(1, 503, "stopping")) is None
    answer = flow.take()
    assert isinstance(answer.error, OverloadedError)
    with pytest.raises(OverloadedError, match="a sentence"):
        _ = answer.detections


def test_a_frame_that_cannot_be_read_is_an_answer_too() -> None:
    flow = flow_of()
    put(flow, 2)
    flow.send()
    flow.send()
    flow.answered(refused(0, 422))
    flow.answered(found(1))
    first, second = flow.take(), flow.take()
    assert first.error is not None
    assert (first.error.status, first.error.code, first.found) == (422, "unreadable_image", None)
    assert (second.error, second.detections.width) == (None, 9)


def test_what_a_lost_connection_was_asked_is_asked_again_in_order() -> None:
    flow = flow_of(ahead=4)
    put(flow, 4)
    for _ in range(3):
        flow.send()
    flow.answered(found(0))
    flow.lost()
    assert [flow.send().number for _ in range(3)] == [1, 2, 3]
    for number in range(3):  # a new connection counts from 0
        flow.answered(found(number))
    assert [flow.take().number for _ in range(4)] == [0, 1, 2, 3]


def test_a_live_stream_keeps_the_newest_frame_and_tells_of_the_others() -> None:
    flow = flow_of(live=True, ahead=2)
    put(flow, 2)  # the second pushes the first out: nothing was sent yet
    assert flow.send().number == 1
    put(flow, 1)
    assert flow.send().number == 2
    put(flow, 5)  # 3 to 7, of which 7 stays
    assert not flow.can_send
    assert flow.has_room  # a camera is never held up
    flow.answered(found(0))
    flow.answered(dropped(1))
    assert flow.send().number == 7
    flow.answered(found(2))
    first, second = flow.take(), flow.take()
    assert (first.number, first.dropped) == (1, 1)
    assert (second.number, second.dropped) == (7, 5)


def test_a_live_stream_forgets_what_a_lost_connection_was_asked() -> None:
    flow = flow_of(live=True, ahead=4)
    for _ in range(3):
        put(flow, 1)
        flow.send()
    flow.lost()
    put(flow, 1)
    assert flow.send().number == 3
    flow.answered(found(0))
    answer = flow.take()
    assert (answer.number, answer.dropped) == (3, 3)


def test_it_is_over_when_the_last_answer_was_taken() -> None:
    flow = flow_of()
    put(flow, 1)
    flow.ended = True
    assert not flow.is_answered
    flow.send()
    flow.answered(found(0))
    assert flow.is_answered
    assert not flow.is_over
    flow.take()
    assert flow.is_over


def test_parameters_that_are_not_accepted_end_the_stream() -> None:
    with pytest.raises(ApiError, match="a sentence") as caught:
        flow_of().answered(refused(None, 422, "invalid_parameter"))
    assert caught.value.code == "invalid_parameter"


@pytest.mark.parametrize(
    "text",
    [
        *(
            '{"frame": 0, "error": NaN}',
            "no JSON",
            "[]",
            "{}",
            '{"frame": 0}',
            '{"error": "why"}',
            '{"frame": 0, "error": 3}',
            found(1),
        ),
        '{"frame": 0, "model": "m", "version": "1", "results": []}',
    ],
)
def test_a_message_that_is_no_answer_is_told(text: str) -> None:
    flow = flow_of()
    put(flow, 1)
    flow.send()
    with pytest.raises(BadReplyError):
        flow.answered(text)


def test_an_answer_that_was_not_asked_for_is_told() -> None:
    with pytest.raises(BadReplyError, match="instead of"):
        flow_of().answered(found(0))


@given(data=st.data(), live=st.booleans(), ahead=st.integers(2, 6), count=st.integers(0, 25))
def test_every_frame_has_one_answer_or_was_dropped_from_a_live_stream(
    data: st.DataObject, live: bool, ahead: int, count: int
) -> None:
    """Puts, sends, answers, drops, breaks and takes in any order; then everything that is left."""
    flow, wire, taken, given_out = flow_of(live=live, ahead=ahead), deque[int](), [], 0
    number = 0

    def answer(text: Any) -> None:
        nonlocal number
        wire.popleft()
        flow.answered(text(number))
        number += 1

    def steps() -> list[str]:
        can = {
            "put": given_out < count and flow.has_room,
            "send": flow.can_send,
            "answer": bool(wire),
            "drop": len(wire) > 2,  # a server that works on one and lets one wait never drops two
            "break": bool(wire),
            "take": flow.can_take,
        }
        return [name for name, possible in can.items() if possible]

    for _ in range(300):
        possible = steps()
        if not possible:
            break
        step = data.draw(st.sampled_from(possible), label="step")
        if step == "put":
            flow.put(IMAGE)
            given_out += 1
        elif step == "send":
            wire.append(flow.send().number)
        elif step == "answer":
            answer(found)
        elif step == "drop":
            answer(dropped)
        elif step == "break":
            wire.clear()
            number = 0
            flow.lost()
        else:
            taken.append(flow.take())
    flow.ended = True
    while flow.can_send or wire or flow.can_take:
        while flow.can_send:
            wire.append(flow.send().number)
        while wire:
            answer(found)
        while flow.can_take:
            taken.append(flow.take())
    assert flow.is_over
    numbers = [one.number for one in taken]
    assert numbers == sorted(set(numbers))
    if live:
        between = [after - before - 1 for before, after in zip([-1, *numbers], numbers, strict=False)]
        assert [one.dropped for one in taken] == between
    else:
        assert numbers == list(range(given_out))

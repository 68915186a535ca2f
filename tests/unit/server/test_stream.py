"""The frames that wait in a stream."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from calibox_server.stream import Frame, Line


def frame(number: int) -> Frame:
    reply: Any = None  # the line never looks at it
    return Frame(number, b"", {}, reply)


def numbers(frames: Sequence[Frame]) -> list[int]:
    return [one.number for one in frames]


def test_where_none_has_room_the_oldest_leaves() -> None:
    line = Line(2)
    assert [line.put(frame(i)) for i in range(2)] == [None, None]
    left = line.put(frame(2))
    assert left is not None
    assert left.number == 0
    assert numbers(line.frames) == [1, 2]


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_the_newest_wait_in_order_and_each_leaves_once(places: int, steps: list[bool]) -> None:
    line, left, taken, count = Line(places), list[Frame](), list[Frame](), 0
    for comes in steps:
        if comes:
            gone = line.put(frame(count))
            count += 1
            left += [gone] if gone is not None else []
        elif line.frames:
            taken.append(line.frames.popleft())
        assert len(line.frames) <= places
        assert numbers(line.frames) == list(range(count - len(line.frames), count))
    assert sorted(numbers(left) + numbers(taken) + numbers(line.frames)) == list(range(count))

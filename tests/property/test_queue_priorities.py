"""Two priorities: the high one goes first, and the normal one is never starved; on the pure queue."""

from concurrent.futures import Future

from hypothesis import given
from hypothesis import strategies as st

from calibox_server.queue import SHARE, Entry, Policy, Priority, Queue

HIGH, NORMAL = Priority.HIGH, Priority.NORMAL
Move = tuple[str, int]  # put a high or a normal entry, let an entry's caller leave, or take a batch


def entry(number: int, priority: Priority, *, deadline: float = 100.0) -> Entry[int, str]:
    return Entry(number, Future(), arrived=float(number), deadline=deadline, priority=priority)


def queue_for(max_batch: int) -> Queue[int, str]:
    return Queue(Policy(max_batch=max_batch, max_delay=0.5, instances=1, in_flight=2))


MOVES = st.lists(
    st.tuples(st.sampled_from(["high", "high", "normal", "leave", "take"]), st.integers(0, 30)), max_size=80
)


@given(moves=MOVES, max_batch=st.integers(1, 8))
def test_each_entry_is_taken_once_and_each_priority_in_the_order_of_arrival(moves: list[Move], max_batch: int) -> None:
    queue = queue_for(max_batch)
    entries: list[Entry[int, str]] = []
    taken: list[Entry[int, str]] = []
    left: set[int] = set()
    for move, which in [*moves, *[("take", 0)] * (len(moves) + 1)]:
        if move == "take":
            batch = queue.take(now=50.0)
            assert len(batch) <= max_batch
            taken += batch
        elif move == "leave":
            for leaver in entries[which : which + 1]:
                if not leaver.taken:
                    leaver.reply.cancel()  # type: ignore[attr-defined]
                    left.add(leaver.work)
        else:
            entries.append(entry(len(entries), Priority(move)))
            queue.put(entries[-1])
    assert len(queue) == 0
    for priority in Priority:
        order = [e.work for e in taken if e.priority is priority]
        assert order == [e.work for e in entries if e.priority is priority and e.work not in left]


@given(moves=MOVES, max_batch=st.integers(1, 8))
def test_the_kth_normal_entry_goes_within_k_times_the_share_of_places(moves: list[Move], max_batch: int) -> None:
    queue = queue_for(max_batch)
    count = places = 0
    latest: dict[int, int] = {}  # by normal entry, the place by which it must have gone
    for move, _ in moves:
        if move == "take":
            for gone in queue.take(now=50.0):
                places += 1
                assert places <= latest.pop(gone.work, places)
        elif move != "leave":
            queue.put(entry(count, Priority(move)))
            if move == "normal":
                latest[count] = places + SHARE * (len(latest) + 1)
            count += 1
    assert all(places <= place for place in latest.values())


@given(high=st.integers(0, 40), normal=st.integers(0, 40))
def test_while_both_wait_three_of_four_places_are_the_high_priority_s(high: int, normal: int) -> None:
    queue = queue_for(high + normal or 1)
    for number in range(normal):
        queue.put(entry(number, NORMAL))
    for number in range(high):
        queue.put(entry(number, HIGH))
    order = [e.priority for e in queue.take(now=50.0)]
    expected: list[Priority] = []
    while high or normal:
        turn = NORMAL if not high or (normal and len(expected) % 4 == 3) else HIGH
        expected.append(turn)
        high, normal = (high - 1, normal) if turn is HIGH else (high, normal - 1)
    assert order == expected


def test_a_late_entry_of_high_priority_is_answered_and_costs_no_place() -> None:
    queue = queue_for(2)
    late = entry(0, HIGH, deadline=10.0)
    for one in (late, entry(1, NORMAL), entry(2, HIGH)):
        queue.put(one)
    assert [e.work for e in queue.take(now=20.0)] == [2, 1]
    assert late.reply.done()


def test_the_delay_counts_from_the_oldest_entry_of_either_priority() -> None:
    queue = queue_for(4)
    queue.put(entry(3, HIGH))
    assert queue.due(running=1) == 3.5
    queue.put(entry(2, NORMAL))
    assert queue.due(running=1) == 2.5

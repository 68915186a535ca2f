"""The queue's policy, without a loop and without a clock."""

import math
from concurrent.futures import Future

import pytest

from calibox_server.errors import DeadlineError
from calibox_server.queue import Entry, Policy, Queue

POLICY = Policy(max_batch=3, max_delay=0.5, instances=2, in_flight=4)


def queue_of(*arrivals: float, deadline: float = 100.0, policy: Policy = POLICY) -> Queue[str, str]:
    queue: Queue[str, str] = Queue(policy)
    for i, arrived in enumerate(arrivals):
        queue.put(Entry(f"work {i}", Future(), arrived=arrived, deadline=deadline))
    return queue


def names(batch: list[Entry[str, str]]) -> list[str]:
    return [entry.work for entry in batch]


@pytest.mark.parametrize("running", range(6))
def test_an_empty_queue_never_starts_anything(running: int) -> None:
    queue = queue_of()
    assert queue.due(running) == math.inf
    assert queue.take(now=0.0) == []


@pytest.mark.parametrize("running", [0, 1])
def test_one_entry_starts_at_once_while_an_instance_is_idle(running: int) -> None:
    assert queue_of(7.0).due(running) == -math.inf


@pytest.mark.parametrize("running", [2, 3])
def test_while_all_instances_are_busy_a_batch_gathers_until_its_oldest_entry_has_waited(running: int) -> None:
    assert queue_of(7.0, 7.2).due(running) == 7.5


def test_a_full_batch_goes_ahead_at_once() -> None:
    assert queue_of(7.0, 7.1, 7.2).due(running=2) == -math.inf


def test_nothing_starts_beyond_what_may_be_in_flight() -> None:
    assert queue_of(1.0, 1.0, 1.0, 1.0).due(running=4) == math.inf


def test_without_batches_ahead_a_busy_engine_is_waited_for() -> None:
    policy = Policy(max_batch=3, max_delay=0.5, instances=2, in_flight=2)
    assert queue_of(1.0, 1.0, 1.0, policy=policy).due(running=2) == math.inf


def test_a_batch_is_the_oldest_entries_up_to_its_size() -> None:
    queue = queue_of(1.0, 2.0, 3.0, 4.0)
    assert names(queue.take(now=5.0)) == ["work 0", "work 1", "work 2"]
    assert names(queue.take(now=5.0)) == ["work 3"]
    assert len(queue) == 0


def test_entries_whose_caller_left_are_passed_over_and_the_batch_is_filled_from_behind() -> None:
    queue = queue_of(1.0, 2.0, 3.0, 4.0)
    list(queue)[1].reply.cancel()  # type: ignore[attr-defined]
    assert names(queue.take(now=5.0)) == ["work 0", "work 2", "work 3"]


def test_entries_whose_deadline_passed_are_answered_and_never_taken() -> None:
    queue = queue_of(1.0, deadline=4.0)
    late = next(iter(queue))
    queue.put(Entry("work 1", Future(), arrived=2.0, deadline=9.0))
    assert names(queue.take(now=4.0)) == ["work 1"]
    assert not late.taken
    with pytest.raises(DeadlineError, match=r"the deadline passed in the queue, 3\.000 s after"):
        late.reply.result()  # type: ignore[attr-defined]


def test_a_discarded_entry_is_gone_and_discarding_it_again_is_harmless() -> None:
    queue = queue_of(1.0, 2.0)
    entry = next(iter(queue))
    queue.discard(entry)
    queue.discard(entry)
    assert names(queue.take(now=3.0)) == ["work 1"]

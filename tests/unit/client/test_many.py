"""Many images: order, bounds, failures."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibox_client import AsyncClient, CaliboxClientError, Client, ImageInputError, RetryPolicy
from calibox_client.many import AHEAD, in_order, in_order_async, or_error, or_error_async
from tests.support.gated_engine import PATIENCE_S
from tests.support.http import CALLERS, DETECTION, URL, Played, answer, problem

Run = Callable[..., list[Any]]


def nothing() -> None:
    """For where nothing is to be stopped."""


def run_blocking(call: Callable[[Any], Any], items: Iterable[Any], concurrency: int) -> list[Any]:
    return list(in_order(call, items, concurrency=concurrency, stop=nothing))


def run_async(call: Callable[[Any], Any], items: Iterable[Any], concurrency: int) -> list[Any]:
    async def waiting(item: Any) -> Any:
        await asyncio.sleep(0)
        return call(item)

    async def run() -> list[Any]:
        return [result async for result in in_order_async(waiting, items, concurrency=concurrency)]

    return asyncio.run(run())


@pytest.fixture(params=[run_blocking, run_async], ids=["blocking", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    """Both forms, one after the other."""
    form: Run = request.param
    return form


@given(count=st.integers(0, 40), concurrency=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_results_come_in_the_order_of_the_items(count: int, concurrency: int) -> None:
    for form in (run_blocking, run_async):
        assert form(lambda item: item * item, range(count), concurrency) == [item * item for item in range(count)]


def test_the_last_may_be_quicker_than_the_first() -> None:
    """The first waits until the second is done."""
    second_is_done = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(PATIENCE_S)
        else:
            second_is_done.set()
        return item

    assert run_blocking(call, [0, 1], 2) == [0, 1]


def test_no_more_are_asked_at_once_than_told() -> None:
    inside, most = [0], [0]

    async def count() -> int:
        three_are_inside = asyncio.Event()

        async def call(item: int) -> int:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            if inside[0] == 3:
                three_are_inside.set()
            await three_are_inside.wait()
            await asyncio.sleep(0)
            inside[0] -= 1
            return item

        return len([r async for r in in_order_async(call, range(50), concurrency=3)])

    assert asyncio.run(count()) == 50
    assert most == [3]


def test_an_endless_source_is_read_only_as_far_as_there_is_room() -> None:
    read: list[int] = []

    def source() -> Iterator[int]:
        for number in range(10_000):
            read.append(number)
            yield number

    taken: list[int] = []
    form = in_order(lambda item: item, source(), concurrency=2, stop=nothing)
    for result in form:
        taken.append(result)
        assert len(read) - len(taken) <= AHEAD * 2
        if result == 100:
            break
    form.close()  # type: ignore[attr-defined]
    assert taken == list(range(101))


def test_an_endless_source_is_read_only_as_far_as_there_is_room_async() -> None:
    read: list[int] = []

    async def source() -> AsyncIterator[int]:
        for number in range(10_000):
            read.append(number)
            yield number

    async def call(item: int) -> int:
        return item

    async def take() -> list[int]:
        taken: list[int] = []
        async for result in in_order_async(call, source(), concurrency=2):
            taken.append(result)
            assert len(read) - len(taken) <= AHEAD * 2
            if result == 100:
                break
        return taken

    assert asyncio.run(take()) == list(range(101))


def test_the_first_failure_ends_it_in_its_turn(run: Run) -> None:
    taken = []

    def call(item: int) -> int:
        if item >= 3:
            raise CaliboxClientError(f"image {item}")
        taken.append(item)
        return item

    with pytest.raises(CaliboxClientError, match="image 3"):
        run(call, range(10), 2)
    assert sorted(taken) == [0, 1, 2]


def test_a_source_that_fails_is_heard(run: Run) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(lambda item: item, source(), 2)


def test_failures_may_be_given_back_instead() -> None:
    def call(item: int) -> int:
        if item % 2:
            raise CaliboxClientError(f"image {item}")
        return item

    async def later(item: int) -> int:
        return call(item)

    attempt, attempt_later = or_error(call, "return"), or_error_async(later, "return")
    assert [str(attempt(item)) for item in range(3)] == ["0", "image 1", "2"]
    assert [str(asyncio.run(attempt_later(item))) for item in range(3)] == ["0", "image 1", "2"]
    with pytest.raises(CaliboxClientError):
        or_error(call, "raise")(1)


def test_what_is_under_way_is_cancelled_when_the_caller_stops() -> None:
    cancelled: list[int] = []

    async def call(item: int) -> int:
        if item == 0:
            return item
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise
        return item

    async def stop() -> None:
        results = in_order_async(call, range(10), concurrency=3)
        async for _ in results:
            break
        await asyncio.sleep(0)
        await results.aclose()  # type: ignore[attr-defined]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(stop())
    assert set(cancelled) <= {1, 2, 3}
    gc.collect()  # nothing is left that would warn


def test_a_caller_who_stops_waits_for_calls_and_not_for_pauses() -> None:
    """The second call would pause for an hour before its repeat."""
    pausing, ended = threading.Event(), []

    def busy_from_the_second_on(request: httpx2.Request) -> httpx2.Response:
        if request.read() == b"first":
            assert pausing.wait(PATIENCE_S)
            return answer([DETECTION])
        return problem(503, "stopping", "come back", Retry_After="3600")

    def images() -> Iterator[bytes]:
        yield from (b"first", b"second")

    policy = RetryPolicy(longest_pause=3600.0)
    transport = httpx2.MockTransport(busy_from_the_second_on)
    told = {"on_retry": lambda *_: pausing.set(), "retries": policy, "timeout": 1e6}
    with Client(URL, transport=transport, **told) as client:  # type: ignore[arg-type]
        results = client.detect_many(images(), concurrency=2)
        ended.append(next(results))
        results.close()
    assert len(ended[0]) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("calibox")]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"concurrency": 101}, {"on_error": "ignore"}])
def test_arguments_that_make_no_sense_are_refused_at_once(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"within 1\.\.100|raise or return"):
        kind(URL).detect_many([], **wrong)


@pytest.mark.parametrize("caller", sorted(CALLERS))
def test_a_list_among_the_images_is_no_image(caller: str) -> None:
    def blocking(client: Any) -> Any:
        return list(client.detect_many([[b"one", b"two"]]))

    async def waiting(client: Any) -> Any:
        return [found async for found in client.detect_many([[b"one", b"two"]])]

    with pytest.raises(ImageInputError, match="list is no image"):
        CALLERS[caller](Played([]), {"blocking": blocking, "async": waiting}[caller])

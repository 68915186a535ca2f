"""Both clients' streams against a real server."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_client import (
    ApiError,
    AsyncClient,
    BadReplyError,
    Client,
    FrameAnswer,
    MissingPackageError,
    RetryPolicy,
    ServerUnreachableError,
)
from calibox_server.keys import make_key
from tests.support.gated_server import gated
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

PIXELS = [np.random.default_rng(i).integers(0, 256, (48, 64 + 8 * i, 3), np.uint8) for i in range(6)]
LOW = {"score_threshold": 0.1}
Take = Callable[..., list[FrameAnswer]]


def take_blocking(url: str, frames: Any, *, options: Any = None, **arguments: Any) -> list[FrameAnswer]:
    with Client(url, **(options or {})) as client:
        return list(client.stream(frames, **arguments))


def take_async(url: str, frames: Any, *, options: Any = None, **arguments: Any) -> list[FrameAnswer]:
    async def run() -> list[FrameAnswer]:
        async with AsyncClient(url, **(options or {})) as client:
            return [answer async for answer in client.stream(frames, **arguments)]

    return asyncio.run(run())


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    with live_server(models, max_batch=1, max_bytes=100_000) as address:
        yield address


@pytest.fixture(params=[take_blocking, take_async], ids=["blocking", "async"])
def take(request: pytest.FixtureRequest) -> Take:
    """Both clients, one after the other."""
    form: Take = request.param
    return form


def test_frames_are_answered_as_single_images_are(take: Take, url: str) -> None:
    frames = PIXELS * 3
    answers = take(url, iter(frames), encoding="png", **LOW)
    assert [answer.number for answer in answers] == list(range(18))
    assert all(answer.image is frame for answer, frame in zip(answers, frames, strict=True))
    with Client(url) as client:
        alone = [client.detect(pixels, **LOW) for pixels in PIXELS]
    assert len(alone[0]) > 3
    assert [answer.detections.detections for answer in answers] == [found.detections for found in alone * 3]


def test_pixels_travel_as_jpeg_unless_told_otherwise(take: Take, url: str) -> None:
    """221 KB of pixels are over this server's limit, and as JPEG far below it."""
    with pytest.raises(ApiError, match="more bytes"):
        take(url, [np.full((288, 256, 3), 90, np.uint8)], encoding="bmp")
    smooth = np.full((288, 256, 3), 90, np.uint8)
    (answer,) = take(url, [smooth])
    assert answer.detections.width == 256


def test_no_frames_are_no_answers(take: Take, url: str) -> None:
    assert take(url, []) == []


def test_an_asynchronous_source_works_too(url: str) -> None:
    async def camera() -> AsyncIterator[Any]:
        for pixels in PIXELS:
            await asyncio.sleep(0)
            yield pixels

    assert [answer.detections.width for answer in take_async(url, camera())] == [64 + 8 * i for i in range(6)]


def test_a_server_that_takes_one_frame_at_a_time_answers_all_of_them(take: Take, models: Path) -> None:
    with live_server(models, stream_frames=1) as address:
        answers = take(address, PIXELS * 4, ahead=6, **LOW)
    assert [answer.detections.width for answer in answers] == [64 + 8 * i for i in range(6)] * 4


def test_a_busy_server_is_asked_again(take: Take, models: Path) -> None:
    busy: list[BaseException] = []
    patient = RetryPolicy(attempts=100, first_pause=0.01, longest_pause=0.02, budget=1000)
    options = {"retries": patient, "on_retry": lambda error, _: busy.append(error)}
    with live_server(models, queue_size=1, instances=1) as address:
        answers = take(address, PIXELS * 2, options=options)
    assert busy
    assert [answer.detections.width for answer in answers] == [64 + 8 * i for i in range(6)] * 2


def test_a_live_stream_gives_the_newest_frames_and_says_how_many_gave_way(models: Path) -> None:
    jpegs = [encoded(picture(width=64 + 8 * i, seed=i), "JPEG") for i in range(12)]
    read = threading.Event()

    def camera() -> Iterator[bytes]:
        yield from jpegs[:2]
        server.engine.wait_for_run()  # the first is worked on
        yield from jpegs[2:]
        read.set()

    with gated(models, log_level="warning") as server:
        server.engine.gate.clear()
        opener = threading.Thread(target=lambda: read.wait() and server.engine.gate.set())
        opener.start()
        answers = take_blocking(str(server.client.base_url).rstrip("/"), camera(), live=True, ahead=2)
        opener.join()
    numbers = [answer.number for answer in answers]
    assert numbers[-1] == 11
    assert numbers == sorted(set(numbers))
    assert sum(answer.dropped for answer in answers) + len(answers) == 12
    assert sum(answer.dropped for answer in answers) >= 8
    assert [answer.detections.width for answer in answers] == [64 + 8 * number for number in numbers]


def test_a_frame_that_is_refused_does_not_end_the_stream(take: Take, url: str) -> None:
    bad, good = take(url, [b"no image", PIXELS[0]])
    assert bad.error is not None
    assert (bad.error.code, bad.error.status) == ("unsupported_media_type", 415)
    assert bad.error.request_id
    with pytest.raises(ApiError, match="frame 0"):
        _ = bad.detections
    assert good.detections.width == 64


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"score_threshold": 7}, "score_threshold must be"), ({"model": "unicorn"}, "unicorn")],
)
def test_parameters_that_are_not_accepted_end_it(take: Take, url: str, arguments: Any, sentence: str) -> None:
    with pytest.raises(ApiError, match=sentence) as caught:
        take(url, PIXELS, **arguments)
    assert caught.value.problem["detail"] == caught.value.detail


def test_a_frame_that_is_too_long_ends_it(take: Take, url: str) -> None:
    with pytest.raises(ApiError, match="more bytes") as caught:
        take(url, [b"x" * 100_001])
    assert caught.value.status == 413


def test_a_source_that_fails_ends_it(take: Take, url: str) -> None:
    def camera() -> Iterator[Any]:
        yield PIXELS[0]
        raise OSError("unplugged")

    with pytest.raises(OSError, match="unplugged"):
        take(url, camera())


def test_a_key_is_shown(take: Take, models: Path) -> None:
    key, line = make_key("camera")
    with live_server(models, api_keys=line) as address:
        with pytest.raises(ApiError) as caught:
            take(address, PIXELS)
        assert (caught.value.status, caught.value.code) == (401, "unauthorized")
        answers = take(address, PIXELS, options={"headers": {"Authorization": f"Bearer {key}"}})
    assert len(answers) == 6


def test_a_server_that_is_not_there_is_told_after_the_last_try(take: Take) -> None:
    options = {"retries": RetryPolicy(attempts=3, first_pause=0.001, longest_pause=0.01)}
    with pytest.raises(ServerUnreachableError, match=r"http://127\.0\.0\.1:1 cannot be reached"):
        take("http://127.0.0.1:1", PIXELS, options=options)


def test_what_speaks_no_websocket_is_told(take: Take, url: str) -> None:
    with pytest.raises((BadReplyError, ApiError)):
        take(f"{url}/docs", PIXELS)


def test_a_caller_may_leave_at_any_time(url: str) -> None:
    threads = threading.active_count()
    with Client(url) as client:
        stream = client.stream(PIXELS * 50)
        assert next(stream).number == 0
        stream.close()  # type: ignore[attr-defined]
        assert client.ready()

    async def leave() -> None:
        async with AsyncClient(url) as client:
            answers = client.stream(PIXELS * 50)
            async for answer in answers:
                assert answer.number == 0
                break
            await answers.aclose()  # type: ignore[attr-defined]
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(leave())
    for thread in threading.enumerate():
        if thread.name.startswith("asyncio"):  # fetched a frame; ends by itself
            thread.join(10)
    assert threading.active_count() <= threads


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("wrong", [{"ahead": 1}, {"encoding": "gif"}, {"timeout": -1}])
def test_arguments_that_make_no_sense_are_refused_at_once(url: str, kind: Any, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"ahead|encoding|timeout"):
        kind(url).stream(PIXELS, **wrong)


def test_without_websockets_a_sentence_says_how_to_get_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("calibox_client.streaming.socket")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    with Client(url) as client, pytest.raises(MissingPackageError, match=r"pip install 'calibox\[video\]'"):
        client.stream(PIXELS)

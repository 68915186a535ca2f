"""A server that goes away in the middle and comes back on its address costs no result."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_client import AsyncClient, Client, Detections, RetryPolicy
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import running, serve_command, server_url

PIXELS = [np.random.default_rng(i).integers(0, 256, (40, 48 + i, 3), np.uint8) for i in range(60)]
LOW = {"score_threshold": 0.1}
RETRIES: list[BaseException] = []
PATIENT = RetryPolicy(attempts=200, first_pause=0.02, longest_pause=0.1, budget=1000)

Ask = Callable[[str, Callable[[int], Any]], list[Detections]]


def note(error: BaseException, _: float) -> None:
    RETRIES.append(error)


def many(url: str, told: Callable[[int], Any]) -> list[Detections]:
    found = []
    with Client(url, retries=PATIENT, on_retry=note, encoding="bmp") as client:
        for one in client.detect_many(PIXELS, concurrency=4, **LOW):
            found.append(one)
            told(len(found))
    return found


def many_async(url: str, told: Callable[[int], Any]) -> list[Detections]:
    async def ask() -> list[Detections]:
        found = []
        async with AsyncClient(url, retries=PATIENT, on_retry=note, encoding="bmp") as client:
            async for one in client.detect_many(PIXELS, concurrency=4, **LOW):
                found.append(one)
                await asyncio.to_thread(told, len(found))
        return found

    return asyncio.run(ask())


def stream(url: str, told: Callable[[int], Any]) -> list[Detections]:
    found = []
    with Client(url, retries=PATIENT, on_retry=note) as client:
        for answer in client.stream(PIXELS, encoding="bmp", **LOW):
            found.append(answer.detections)
            told(len(found))
    return found


def stream_async(url: str, told: Callable[[int], Any]) -> list[Detections]:
    async def ask() -> list[Detections]:
        found = []
        async with AsyncClient(url, retries=PATIENT, on_retry=note) as client:
            async for answer in client.stream(PIXELS, encoding="bmp", **LOW):
                found.append(answer.detections)
                await asyncio.to_thread(told, len(found))
        return found

    return asyncio.run(ask())


WAYS = {"many": many, "many_async": many_async, "stream": stream, "stream_async": stream_async}


@contextmanager
def in_thread(models: Path, port: int) -> Iterator[str]:
    settings = Settings(models=models, host="127.0.0.1", log_level="error", drain_s=5)
    with running(Service.load(settings), port) as server:
        yield server_url(server)


@contextmanager
def as_process(models: Path, port: int) -> Iterator[str]:
    """Killed at the end, without a chance to finish anything."""
    with serve_command("--models", str(models), "--port", str(port), "--log-level", "error") as process:
        assert process.stdout is not None
        lines = (process.stdout.readline() for _ in range(3))
        (port,) = [found[1] for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)/docs", line))]
        yield f"http://127.0.0.1:{port}"


def ask_with_a_restart(ask: Ask, serve: Callable[[Path, int], Any], models: Path) -> list[Detections]:
    """Takes 20 answers, takes no more until the server is gone, and starts another one on the same port."""
    twenty, gone = threading.Event(), threading.Event()
    found: list[Detections] = []

    def told(count: int) -> None:
        if count == 20:
            twenty.set()
            assert gone.wait(PATIENCE_S)

    with serve(models, 0) as url:
        caller = threading.Thread(target=lambda: found.extend(ask(url, told)))
        caller.start()
        assert twenty.wait(PATIENCE_S)
    gone.set()
    with serve(models, int(url.rpartition(":")[2])):
        caller.join()
    return found


@pytest.fixture(autouse=True)
def no_retries() -> None:
    RETRIES.clear()


def check(found: list[Detections], models: Path) -> None:
    assert RETRIES  # it was felt
    assert [one.width for one in found] == [48 + i for i in range(60)]
    with in_thread(models, 0) as url, Client(url) as client:
        for i in (0, 19, 25, 40, 59):
            expected = client.detect(PIXELS[i], **LOW)
            assert len(expected) > 3
            np.testing.assert_allclose(found[i].boxes, expected.boxes, atol=1e-3)
            np.testing.assert_allclose(found[i].scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_server_that_is_restarted_costs_no_result(models: Path, way: str) -> None:
    check(ask_with_a_restart(WAYS[way], in_thread, models), models)


@pytest.mark.slow  # two servers as processes for each
@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_server_that_is_killed_and_started_again_costs_no_result(models: Path, way: str) -> None:
    check(ask_with_a_restart(WAYS[way], as_process, models), models)

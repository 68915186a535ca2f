"""A calibox server played by a function, for tests of what a client does with each kind of answer."""

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx2

from calibox_client import AsyncClient, Client

URL = "http://detector.test:8000"
Step = httpx2.Response | Exception

DETECTION = {
    "box": [10.5, 20.25, 30.0, 45.125],
    "label": "WBC",
    "label_id": 2,
    "score": 0.8123456789012345,
    "classification_score": 0.9,
    "localization_score": 0.75,
}


def answer(*results: list[dict[str, Any]], width: int = 64, height: int = 48) -> httpx2.Response:
    """The answer of `POST /v1/detect` with these detections per image."""
    entries = [{"width": width, "height": height, "detections": found} for found in results]
    document = {"model": "cells", "version": "3", "results": entries, "timing": {"total": 4.5}}
    return httpx2.Response(200, json=document)


def problem(status: int, code: str, detail: str, **headers: str) -> httpx2.Response:
    """A refusal as the server writes it."""
    document = {"title": code, "status": status, "code": code, "detail": detail, "request_id": "r-17"}
    return httpx2.Response(
        status,
        content=json.dumps(document).encode(),
        headers={"Content-Type": "application/problem+json", **{k.replace("_", "-"): v for k, v in headers.items()}},
    )


class Played:
    """Answers requests with the given steps in turn, and keeps what was asked, waited and retried."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps: Iterator[Step] = iter(steps)
        self.requests: list[httpx2.Request] = []
        self.pauses: list[float] = []
        self.retries: list[tuple[BaseException, float]] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        step = next(self.steps)
        if isinstance(step, Exception):
            raise step
        return step

    async def sleep_async(self, seconds: float) -> None:
        """Notes a pause instead of waiting."""
        self.pauses.append(seconds)

    def arguments(self) -> dict[str, Any]:
        """Arguments of both clients."""
        return {
            "transport": httpx2.MockTransport(self),
            "on_retry": lambda error, pause: self.retries.append((error, pause)),
        }


def call_blocking(played: Played, call: Callable[[Any], Any], **arguments: Any) -> Any:
    """``call(client)`` with a blocking client whose server is played."""
    with Client(URL, sleep=played.pauses.append, **played.arguments(), **arguments) as client:
        return call(client)


def call_async(played: Played, call: Callable[[Any], Any], **arguments: Any) -> Any:
    """``await call(client)`` with an asynchronous client whose server is played."""

    async def run() -> Any:
        async with AsyncClient(URL, sleep=played.sleep_async, **played.arguments(), **arguments) as client:
            return await call(client)

    return asyncio.run(run())


CALLERS = {"blocking": call_blocking, "async": call_async}

"""Who goes first, over HTTP: the order of the engine's runs, and places that are kept for the urgent."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from tests.support.bundles import make_tiny_bundle
from tests.support.gated_server import Gated, gated, metric, wait_until
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(width=200, height=120), "JPEG")


class Callers:
    """Requests to a server whose engine is busy, told apart by their score threshold."""

    def __init__(self, server: Gated, pool: ThreadPoolExecutor) -> None:
        self.server, self._pool = server, pool

    def ask(self, number: int, **parameters: Any) -> httpx2.Response:
        asked = {"score_threshold": number / 100, **parameters}
        return self.server.client.post("/v1/detect", content=JPEG, params=asked)

    def send(self, number: int, **parameters: Any) -> "Future[httpx2.Response]":
        """Asks beside the test and returns when the request waits for the engine."""
        before = self._waiting()
        future = self._pool.submit(self.ask, number, **parameters)
        wait_until(lambda: self._waiting() > before)
        return future

    def order(self) -> list[int]:
        """The numbers of the requests that ran, in the order of the engine."""
        return [round(100 * float(batch.score_threshold[0])) for batch in self.server.engine.batches]

    def _waiting(self) -> float:
        return metric(self.server.client, "calibox_queue_depth")


@contextmanager
def busy(models: Path, **settings: Any) -> Iterator[Callers]:
    """A server whose engine has request 0, and keeps it until the gate is opened."""
    make_tiny_bundle(models)
    with gated(models, **settings) as server, ThreadPoolExecutor(16) as pool:
        server.engine.gate.clear()
        callers = Callers(server, pool)
        first = pool.submit(callers.ask, 0)
        server.engine.wait_for_run()
        try:
            yield callers
        finally:
            server.engine.gate.set()
            assert first.result().status_code == 200


def test_the_urgent_go_first_and_every_fourth_place_is_a_normal_one(tmp_path: Path) -> None:
    with busy(tmp_path) as callers:
        calls = [callers.send(number) for number in (1, 2, 3)]
        calls += [callers.send(number, priority="high") for number in (11, 12, 13, 14)]
        callers.server.engine.gate.set()
        assert [call.result().status_code for call in calls] == [200] * 7
        assert callers.order() == [0, 11, 12, 13, 1, 14, 2, 3]


def test_reserved_places_are_open_to_the_urgent_alone(tmp_path: Path) -> None:
    with busy(tmp_path, queue_size=3, reserved_places=1) as callers:
        calls = [callers.send(1)]
        refused = callers.ask(2)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert "2 of 2 places in the queue are taken" in refused.json()["detail"]
        calls.append(callers.send(3, priority="high"))
        assert "3 of 3 places" in callers.ask(4, priority="high").json()["detail"]
        callers.server.engine.gate.set()
        assert [call.result().status_code for call in calls] == [200] * 2

"""Clients that ask without a pause, and two bundles that take turns in one place."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2

from tests.support.bundles import make_tiny_bundle
from tests.support.pictures import encoded, picture

JPEG = encoded(picture(width=200, height=120), "JPEG", quality=95)
RAW = {"Content-Type": "image/jpeg"}
ASKERS = 4


def results(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["results"]


def ask(client: httpx2.Client, **parameters: Any) -> Any:
    return results(client.post("/v1/detect", content=JPEG, headers=RAW, params=parameters))


class Askers:
    """Clients that ask without a pause until told to stop, and keep what they were answered."""

    def __init__(self, client: httpx2.Client, count: int = ASKERS) -> None:
        self.answers: list[Any] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._calls = [self._pool.submit(self._ask, client) for _ in range(count)]

    def _ask(self, client: httpx2.Client) -> None:
        while not self._stop.is_set():
            self.answers.append(ask(client))  # appending is atomic

    def wait_for_more(self) -> None:
        """Until each asker was answered once more or so."""
        wanted = len(self.answers) + ASKERS
        pause = threading.Event()
        while len(self.answers) < wanted and not any(call.done() for call in self._calls):
            pause.wait(0.001)

    def end(self) -> list[Any]:
        """Every answer; raises what an asker raised."""
        self._stop.set()
        for call in self._calls:
            call.result()
        self._pool.shutdown()
        return self.answers


def two_networks(tmp_path: Path) -> tuple[Path, list[Path]]:
    """A repository with tiny/1, and two bundles that take turns in that place."""
    root = tmp_path / "models"
    (root / "tiny").mkdir(parents=True)
    return root, [make_tiny_bundle(tmp_path / str(seed), seed=seed) for seed in range(2)]


def put(root: Path, bundle: Path) -> None:
    """Lets tiny/1 be ``bundle``, by one rename of a link."""
    link = root / "tiny" / ".next"
    link.symlink_to(bundle)
    link.replace(root / "tiny" / "1")

"""A server whose engine waits for the test, and what tests ask of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from calibox_core.bundle import Bundle
from calibox_server.serve import Server
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.gated_engine import PATIENCE_S, GatedEngine
from tests.support.live_server import grpc_address, running, server_url


def metric(client: httpx2.Client, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels, as the server tells it."""
    text = client.get("/metrics").text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples if s.name == name]
    return sum(s.value for s in samples if labels.items() <= s.labels.items())


def wait_until(true: Callable[[], bool]) -> None:
    """Asks again until it is so; each question is a round trip to the server, so that nothing spins."""
    pause = threading.Event()
    for _ in range(1000):
        if true():
            return
        pause.wait(PATIENCE_S / 1000)
    pytest.fail("what was waited for never came")


class Gated:
    """A server whose engine waits for the test."""

    def __init__(self, service: Service, engine: GatedEngine, server: Server, client: httpx2.Client) -> None:
        self.service, self.engine, self.server, self.client = service, engine, server, client

    @property
    def grpc_address(self) -> str:
        """Where gRPC listens, if ``grpc_port`` was set."""
        return grpc_address(self.server)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(server_url(self.server).rpartition(":")[2])


@contextmanager
def gated(models: Path, *, max_batch: int = 1, **settings: Any) -> Iterator[Gated]:
    """Serves one bundle with one engine, whose gate is open at first.

    Args:
        models: folder of the bundle.
        max_batch: of the engine.
        settings: fields of `calibox_server.settings.Settings`.
    """
    engines: list[GatedEngine] = []

    def open_engine(bundle: Bundle) -> GatedEngine:
        engines.append(GatedEngine(bundle, max_batch=max_batch))
        return engines[0]

    service = Service.load(Settings(models=models, **settings), open_engine)
    engines[0].forget()
    with running(service) as server:
        try:
            with httpx2.Client(base_url=server_url(server), timeout=PATIENCE_S) as client:
                yield Gated(service, engines[0], server, client)
        finally:
            engines[0].gate.set()

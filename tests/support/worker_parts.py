"""What tests of the parts of several processes begin with."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np

from calibox_core.fusion import Exponents
from calibox_server.engine import EngineOutput
from calibox_server.parameters import Parameters
from calibox_server.workers import messages
from calibox_server.workers.slab import Layout
from tests.support.gated_engine import PATIENCE_S

LAYOUT = Layout(height=4, width=5, rows=3)
ROWS = EngineOutput(
    np.array([2], np.int32),
    np.arange(8, dtype=np.float32).reshape(2, 4),
    np.array([7, 1], np.int32),
    *(np.array([i, i + 0.5], np.float32) for i in range(3)),
)
PARAMETERS = Parameters(Exponents(1.0, 0.5, 0.25), 0.1, 0.6, 10, None, (0,), 1000.0)
LATER = 1e9  # a deadline that never comes


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, PATIENCE_S))


class Post:
    """A channel that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int, list[int]]] = []  # kind, number, descriptors

    def send(self, packet: bytes, fds: Sequence[int] = ()) -> None:
        self.sent.append((*messages.read_head(packet), list(fds)))

    def note(self, record: bytes) -> None:
        pass

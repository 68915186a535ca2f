"""What is known of one HTTP request while it is answered; lies in its ASGI scope under ``record``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from calibox_server.engine_runner import clock
from calibox_server.pipeline import free
from calibox_server.service import Answer

KEY = "record"


@dataclass(slots=True)
class Record:
    """Filled by whoever learns something; read by the access log, `Server-Timing`, the metrics and traces."""

    request_id: str
    trace_id: str = ""  # 32 hex digits, where the caller or a tracer named one
    caller: str = ""  # name of the key; empty where keys are not asked for
    charge: Callable[[int], None] = free  # called with the number of images; may raise RateLimitedError
    charge_more: Callable[[int], None] = free  # called with the number of tiles beside the images; never raises
    started: float = field(default_factory=clock)
    status: int = 0  # 0 until the answer starts
    code: str = ""  # of the error; empty until the answer starts, "ok" where there is none
    model: str = ""  # name/version
    images: int = 0
    batch: int = 0  # largest batch that held one of the images
    stages_ms: Mapping[str, float] = field(default_factory=dict)

    def note(self, answer: Answer) -> None:
        """Notes what was found for it."""
        self.images, self.model, self.batch = answer.images, answer.model, answer.batch
        self.stages_ms = answer.timing_ms


def record_of(scope: Scope) -> Record:
    """The record of a request that came through `OutermostMiddleware`."""
    record: Any = scope[KEY]
    assert isinstance(record, Record)
    return record

"""The header `Server-Timing` (https://www.w3.org/TR/server-timing/), which browsers show beside a request."""

from collections.abc import Mapping


def in_ms(seconds: float) -> float:
    """Milliseconds to three places. Of a whole number divided: `round` to places takes six times as long."""
    return round(seconds * 1e6) / 1e3


def server_timing(timing_ms: Mapping[str, float], batch: int = 0) -> str:
    """The header's value: milliseconds by stage, and the size of the batch where the request ran in one."""
    stages = ", ".join([f"{stage};dur={value}" for stage, value in timing_ms.items()])
    return f"{stages}, batch;desc={batch}" if batch else stages

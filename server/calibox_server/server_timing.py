"""The header `Server-Timing` (https://www.w3.org/TR/server-timing/), which browsers show beside a request."""

from collections.abc import Mapping


def server_timing(timing_ms: Mapping[str, float], batch: int = 0) -> str:
    """The header's value: milliseconds by stage, and the size of the batch where the request ran in one."""
    stages = ", ".join([f"{stage};dur={value}" for stage, value in timing_ms.items()])
    return f"{stages}, batch;desc={batch}" if batch else stages

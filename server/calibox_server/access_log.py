"""One line per request on stderr. Written without structlog's chain, which costs ten times as much as the line."""

import logging
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson
from starlette.types import Scope

from calibox_server.engine_runner import clock
from calibox_server.options import Options
from calibox_server.records import Record
from calibox_server.server_timing import in_ms

QUIET = frozenset({"/livez", "/readyz", "/metrics"})  # asked every few seconds by machines; logged at level debug
_MAX_PATH = 200  # characters; a line, not an echo of the request


class AccessLog:
    """Writes lines in the form and from the level that the settings name."""

    def __init__(self, settings: Options) -> None:
        level = logging.getLevelNamesMapping()[settings.log_level.upper()]
        self.enabled = level <= logging.INFO
        self._quiet_too = level <= logging.DEBUG
        self._line = _json_line if settings.log_format == "json" else _console_line

    def write(self, scope: Scope, record: Record) -> None:
        """Logs a request whose answer was sent."""
        if scope["path"] not in QUIET or self._quiet_too:
            sys.stderr.write(self._line(_fields(scope, record)))


def _fields(scope: Scope, record: Record) -> dict[str, Any]:
    client = scope.get("client")
    fields: dict[str, Any] = {
        "status": record.status,
        "code": record.code,
        "method": scope["method"],
        "path": _plain(scope["path"][:_MAX_PATH]),
        "request_id": record.request_id,
        "client": client[0] if client else "",
    }
    optional = {"trace_id": record.trace_id, "caller": record.caller, "model": record.model}
    fields.update({name: value for name, value in optional.items() if value})
    if record.images:
        fields.update(images=record.images, batch=record.batch)
    stages = record.stages_ms or {"total": in_ms(clock() - record.started)}
    return fields | {f"{stage}_ms": value for stage, value in stages.items()}


def _json_line(fields: dict[str, Any]) -> str:
    head = {"event": "request", "level": "info", "timestamp": _now()}
    return orjson.dumps(head | fields, option=orjson.OPT_APPEND_NEWLINE).decode()


def _console_line(fields: dict[str, Any]) -> str:
    shown = " ".join([f"{name}={value}" for name, value in fields.items()])
    return f"{_now()} [info     ] request {shown}\n"


def _plain(text: str) -> str:
    """A caller's text without what could forge further lines or drive a terminal."""
    return text if text.isascii() and text.isprintable() else ascii(text)[1:-1]


@lru_cache(1)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _now() -> str:
    """The time as the other log lines have it, to a millisecond."""
    seconds, rest = divmod(time.time(), 1)
    return f"{_second(int(seconds))}.{int(rest * 1000):03d}Z"

"""What was read from files, read again when they change: keys and certificates live shorter than servers.

Looked at when it is used and at most once a second, so that there is neither a thread nor a signal for it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from calibox_core.errors import CaliboxError
from calibox_server.engine_runner import clock

log = structlog.get_logger()

LOOK_S = 1.0  # between two looks at the files
Stamp = tuple[int, int, int] | None  # of a file: time of change in ns, bytes, inode; None where there is none

T = TypeVar("T")


class Reread(Generic[T]):
    """The newest that could be read. Any thread may ask.

    Args:
        what: it is, for the log.
        files: that it is read from.
        read: reads it; called at once, when an error is the caller's, and whenever a file has changed.
        now: seconds, monotonic.
    """

    def __init__(
        self, what: str, files: Sequence[Path], read: Callable[[], T], now: Callable[[], float] = clock
    ) -> None:
        self._what, self._files, self._read, self._now = what, files, read, now
        self._stamps = self._look()
        self._value = read()
        self._next = now() + LOOK_S

    def current(self) -> T:
        """What the files say; where they say nothing that can be used, what they said before."""
        if self._now() >= self._next:
            self._next = self._now() + LOOK_S
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                self._renew()
        return self._value

    def _renew(self) -> None:
        try:
            self._value = self._read()
        except CaliboxError as error:
            log.warning("files_not_taken", what=self._what, reason=str(error), kept="what was read before")
        else:
            log.info("files_taken", what=self._what, files=[str(file) for file in self._files])

    def _look(self) -> list[Stamp]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> Stamp:
    try:
        known = file.stat()
    except OSError:
        return None
    return known.st_mtime_ns, known.st_size, known.st_ino

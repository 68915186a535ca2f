"""A file of JSON lines that grows in order and is whole under its name only: an interrupted run goes on where it was.

Until then the lines lie beside it, in ``NAME.part``, and what they belong to in ``NAME.part.json``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from calibox_client.commands.failures import CommandError

Fingerprint = Mapping[str, Any]  # plain JSON values


class LinesFile:
    """Lines so far.

    Attributes:
        done: lines that an earlier run has written.
        failed: of them, those with an ``error``.

    Args:
        path: of the file.
        fingerprint: what the lines are of.

    Raises:
        CommandError: the lines beside it are of something else, or damaged, or cannot be written.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint) -> None:
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self._note = path.with_name(f"{path.name}.part.json")
        wanted = json.loads(json.dumps(fingerprint))  # as it reads when it comes back from the file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            length = self._read(wanted)
            self._note.write_text(json.dumps(wanted) + "\n")
            self._stream: IO[bytes] = self._part.open("ab")
            self._stream.truncate(length)  # a last line that an interruption cut short
        except OSError as error:
            raise CommandError(f"{self._part} cannot be written: {error.strerror or error}") from error
        except ValueError as error:
            raise CommandError(f"{self._part} or {self._note.name} is damaged; remove both") from error

    def add(self, document: Mapping[str, Any]) -> None:
        """Appends a line; it is with the operating system when this returns.

        Raises:
            CommandError: it cannot be written, for example to a full disk.
        """
        try:
            self._stream.write(json.dumps(document).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise CommandError(f"{self._part} cannot be written: {error.strerror or error}") from error

    def finish(self) -> None:
        """Gives the lines their name."""
        self._stream.close()
        self._part.replace(self._path)
        self._note.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _read(self, wanted: Fingerprint) -> int:
        """Bytes of the lines that end."""
        self.done = self.failed = length = 0
        if not self._part.exists():
            return 0
        there = json.loads(self._note.read_text())
        if there != wanted:
            differing = ", ".join(key for key in sorted({*there, *wanted}) if there.get(key) != wanted.get(key))
            raise CommandError(
                f"{self._part} holds the lines of an interrupted run with other {differing}; remove it to begin anew, "
                "or choose another --output"
            )
        with self._part.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    self.done, self.failed = self.done + 1, self.failed + ("error" in json.loads(line))
                    length += len(line)
        return length

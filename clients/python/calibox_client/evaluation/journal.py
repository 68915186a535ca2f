"""Second stage: answers kept on disk as they come, so that an interrupted evaluation goes on where it stopped.

One JSON document per line: first the fingerprint of what is measured, then one line per image. Lines are only ever
appended; a last line that an interruption cut short is dropped.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Generic, Protocol, Self, TypeVar

from calibox_client.evaluation.errors import EvaluationError

Fingerprint = Mapping[str, Any]  # plain JSON values


class Kept(Protocol):
    """What is known of one image."""

    @property
    def image_id(self) -> int:
        """Of the image."""

    def as_line(self) -> dict[str, Any]:
        """Plain JSON values that it can be made of again."""


_Kept = TypeVar("_Kept", bound=Kept)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server found in one image."""

    image_id: int
    latency_ms: float  # of the whole call as the client saw it, repeats and pauses included
    detections: list[dict[str, Any]]  # COCO results without image_id: category_id, bbox (x, y, width, height), scores

    def as_line(self) -> dict[str, Any]:
        """Its fields."""
        # Not `asdict`, whose deep copies took a third of the client's time.
        return {"image_id": self.image_id, "latency_ms": self.latency_ms, "detections": self.detections}

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Self:
        """An answer from its line."""
        return cls(image_id=line["image_id"], latency_ms=line["latency_ms"], detections=line["detections"])


class Journal(Generic[_Kept]):
    """Answers so far, in memory and on disk.

    Attributes:
        answers: by image id.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, of_line: Callable[[Mapping[str, Any]], _Kept]) -> None:
        """Opens the journal, and makes it where there is none.

        Args:
            path: of the file.
            fingerprint: what is measured: model, version, parameters, images.
            of_line: makes an answer of what its `as_line` wrote.

        Raises:
            EvaluationError: the file is the journal of something else, or damaged, or cannot be written.
        """
        self.path = path
        wanted = json.loads(json.dumps(fingerprint))  # as it reads when it comes back from the file
        self.answers: dict[int, _Kept] = {}
        try:
            lines, length = _whole_lines(path)
            if lines:
                _check_fingerprint(path, lines[0], wanted)
                self.answers = {answer.image_id: answer for answer in map(of_line, lines[1:])}
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = path.open("ab")
            self._stream.truncate(length)
            if not lines:
                self._write({"fingerprint": wanted})
        except OSError as error:
            raise EvaluationError(f"the journal {path} cannot be used: {error.strerror or error}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(f"{path} is no journal of an evaluation, or damaged; pass --restart") from error

    def add(self, answer: _Kept) -> None:
        """Keeps an answer; it is with the operating system when this returns.

        Raises:
            EvaluationError: it cannot be written, for example to a full disk.
        """
        try:
            self._write(answer.as_line())
        except OSError as error:
            raise EvaluationError(f"the journal {self.path} cannot be written: {error.strerror or error}") from error
        self.answers[answer.image_id] = answer

    def remove(self) -> None:
        """Ends the journal: everything in it has been written elsewhere."""
        self._stream.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def _write(self, document: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")
        self._stream.flush()


def _whole_lines(path: Path) -> tuple[list[Any], int]:
    """The documents of lines that end, and the length of these lines in bytes."""
    if not path.exists():
        return [], 0
    data = path.read_bytes()
    length = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:length].splitlines()], length


def _check_fingerprint(path: Path, line: Mapping[str, Any], wanted: Fingerprint) -> None:
    there = line["fingerprint"]
    if there == wanted:
        return
    differing = [key for key in sorted({*there, *wanted}) if there.get(key) != wanted.get(key)]
    told = "; ".join(f"{key} is {there.get(key)!r} there and {wanted.get(key)!r} now" for key in differing)
    raise EvaluationError(
        f"{path} keeps the answers of an interrupted evaluation of something else: {told}. "
        "Pass --restart to drop them, or choose another --output"
    )

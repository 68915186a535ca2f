"""Which frame of a stream is sent next, and whose answer comes back: bookkeeping without network or clock.

Frames leave in their order and the server answers in the order in which they were sent. Where every frame counts, one
that the server dropped or was too busy for is sent again; answers are still given out in the order of the frames.
"""

import json
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

from calibox_client.errors import ApiError, BadReplyError, OverloadedError
from calibox_client.images import ImageInput
from calibox_client.replies import Reply, parse_json, refusal, results_of
from calibox_client.results import Detections
from calibox_client.streaming.answers import FrameAnswer

# A server works on at least one frame of a stream and lets as many wait, so two are never dropped.
FEWEST_AHEAD = 2


class State(Enum):
    """How far a frame has come."""

    WAITING = "waiting"
    SENT = "sent"
    DONE = "done"


@dataclass(slots=True, eq=False)
class Frame:
    """A frame between the caller who gave it and the caller who takes its answer."""

    number: int
    image: ImageInput
    dropped: int  # frames before it that gave way
    state: State = State.WAITING
    data: bytes | None = None  # encoded when it is first sent: many frames of a live stream never are
    tries: int = 0
    found: Detections | None = None
    error: ApiError | None = None


class Busy(NamedTuple):
    """The server is too busy for a frame, which will be sent again."""

    error: OverloadedError
    tries: int


class Flow:
    """The frames of one stream; at most ``ahead`` of them are in memory, and in a live stream the newest one too.

    Args:
        ahead: frames that are sent and not answered, or answered and not taken, at most.
        live: whether new frames push out waiting ones.
        attempts: how often a frame is sent that the server is too busy for.
    """

    def __init__(self, *, ahead: int, live: bool, attempts: int) -> None:
        self._ahead = ahead
        self._at_once = ahead  # frames that are sent and not answered; fewer where the server drops some
        self._live = live
        self._attempts = attempts
        self._count = self._dropped = 0
        self._frames: list[Frame] = []  # in their order
        self._sent: deque[Frame] = deque()  # in the order of this connection
        self._number = 0  # that the next answer of this connection has
        self.ended = False  # no frame comes any more

    @property
    def has_room(self) -> bool:
        """Whether the next frame may be fetched."""
        return self._live or len(self._frames) < self._ahead

    @property
    def can_send(self) -> bool:
        """Whether a frame waits and may leave."""
        waiting = sum(frame.state is State.WAITING for frame in self._frames)
        has_place = len(self._frames) - waiting < self._ahead or not self._live  # else `has_room` keeps the bound
        return waiting > 0 and len(self._sent) < self._at_once and has_place

    @property
    def is_asking(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._sent)

    @property
    def can_take(self) -> bool:
        """Whether the next answer is there."""
        return bool(self._frames) and self._frames[0].state is State.DONE

    @property
    def is_answered(self) -> bool:
        """Whether nothing is left to be done but taking answers."""
        return self.ended and all(frame.state is State.DONE for frame in self._frames)

    @property
    def is_over(self) -> bool:
        """Whether the last answer was taken."""
        return self.ended and not self._frames

    def put(self, image: ImageInput) -> None:
        """Appends a frame; in a live stream one that still waits gives way to it."""
        for frame in [frame for frame in self._frames if self._live and frame.state is State.WAITING]:
            self._drop(frame)
        self._frames.append(Frame(self._count, image, self._dropped))
        self._count, self._dropped = self._count + 1, 0

    def send(self) -> Frame:
        """The next frame, which is sent now."""
        frame = next(frame for frame in self._frames if frame.state is State.WAITING)
        frame.state, frame.tries = State.SENT, frame.tries + 1
        self._sent.append(frame)
        return frame

    def lost(self) -> None:
        """The connection broke: what it was asked is asked again, or in a live stream out of date."""
        for frame in self._sent:
            self._put_back(frame)
        self._sent.clear()
        self._number = 0

    def answered(self, text: str | bytes) -> Busy | None:
        """Takes the server's next message in.

        Returns: why to pause, where the server is too busy and the frame will be sent again.

        Raises:
            ApiError: the parameters are not accepted.
            BadReplyError: no answer of a calibox server.
        """
        document = _read(text)
        if "frame" not in document:
            raise _error_of(document)
        if not self._sent or document["frame"] != self._number:
            raise BadReplyError(f"the server answered frame {document['frame']} instead of {self._number}")
        self._number += 1
        frame = self._sent.popleft()
        if document.get("dropped"):
            self._at_once = self._at_once if self._live else max(FEWEST_AHEAD, self._at_once - 1)
            self._put_back(frame)
        elif "error" in document:
            return self._refused(frame, _error_of(document))
        else:
            (found,) = results_of(document, images=1)
            frame.state, frame.found = State.DONE, found
        return None

    def take(self) -> FrameAnswer:
        """The next answer, in the order of the frames."""
        frame = self._frames.pop(0)
        return FrameAnswer(frame.number, frame.image, frame.found, frame.error, frame.dropped)

    def _refused(self, frame: Frame, error: ApiError) -> Busy | None:
        if isinstance(error, OverloadedError) and not self._live and frame.tries < self._attempts:
            frame.state = State.WAITING
            return Busy(error, frame.tries)
        frame.state, frame.error = State.DONE, error
        return None

    def _put_back(self, frame: Frame) -> None:
        frame.state = State.WAITING
        if self._live:
            self._drop(frame)

    def _drop(self, frame: Frame) -> None:
        """Takes a frame out; the next one tells of it."""
        place = self._frames.index(frame)
        self._frames.pop(place)
        if place < len(self._frames):
            self._frames[place].dropped += frame.dropped + 1
        else:
            self._dropped += frame.dropped + 1


def _read(text: str | bytes) -> dict[str, Any]:
    try:
        document = parse_json(text)
    except ValueError as error:
        raise BadReplyError(f"the server sent a message that is not JSON: {text[:80]!r}") from error
    if not isinstance(document, dict) or not ({"frame", "error"} & document.keys()):
        raise BadReplyError(f"the server sent a message that is no answer to a frame: {text[:80]!r}")
    return document


def _error_of(document: dict[str, Any]) -> ApiError:
    problem = document.get("error")
    status = problem.get("status") if isinstance(problem, dict) else None
    if not isinstance(status, int):
        raise BadReplyError("the server refused a frame without saying why")
    return refusal(Reply(status, {}, json.dumps(problem).encode()))

"""Where a front end reaches the engine process, whichever that is at the moment."""

import itertools
from typing import Protocol

from calibox_server.workers.channel import Channel
from calibox_server.workers.messages import Answer, read_answers


class Asks(Protocol):
    """Somebody who waits for answers."""

    def answered(self, answer: Answer) -> None:
        """One came."""


class Desk:
    """Sends records and gives each answer to whoever asked."""

    def __init__(self) -> None:
        self.channel: Channel | None = None  # None while there is no engine process
        self._numbers = itertools.count(1)  # never used twice: an answer has one question
        self._askers: dict[int, Asks] = {}

    def expect(self, asker: Asks) -> int:
        """The number of a new question."""
        number = next(self._numbers)
        self._askers[number] = asker
        return number

    def forget(self, number: int) -> None:
        """Its answer came, or never will."""
        del self._askers[number]

    def note(self, record: bytes) -> None:
        """Sends a record, if there is somebody to send it to."""
        if self.channel is not None:
            self.channel.note(record)

    def received(self, packet: bytes) -> None:
        """Answers came."""
        for answer in read_answers(packet):
            self._askers[answer.number].answered(answer)

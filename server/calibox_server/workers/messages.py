"""What the processes of one server say to each other: fixed structures, the longer things as shared memory.

A packet begins with the byte of its kind. Of `ASK`, `CANCEL` and `ANSWER` one packet holds many records; every other
one is a `HEAD` and perhaps a descriptor.
"""

import struct
from typing import NamedTuple

from calibox_server.errors import PROBLEMS, ComeBackError, ServiceError
from calibox_server.queue import Priority

HEAD = struct.Struct("<BQ")  # kind, number: of a process, model, catalogue, question, connections

# From a front end to the engine process.
ASK = 1  # an image lies in a slot
CANCEL = 2  # nobody waits for it any more
SLAB = 3  # number of a model, and the memory with this front end's slots for it
LET_GO = 4  # number of a model that this front end asks no more
CHANGE = 5  # number of the question, and a document: load or unload
APPLIED = 6  # number of the catalogue that this front end goes by now
# From the engine process to a front end.
ANSWER = 7  # rows or a sentence lie in a slot, which is free
CATALOGUE = 8  # its number, and the document
CHANGED = 9  # number of the question, and a document
# From the supervisor.
HELLO = 10  # number of the process, and its start document, counts and rates
CONNECTION = 11  # a caller's socket
LINK = 12  # the other end belongs to the engine process, or to the front end of this number
STOP = 13  # take nothing new
END = 14  # close
SNAPSHOT = 15  # number of the question; answered with it and a text; asked by a front end with its own text
SNAPSHOTS = 16  # number of the question, and a document: text by process
PING = 21  # are you there?
# To the supervisor.
READY = 17  # of the engine process with a document
COUNTS = 18  # connections that were received, in the high half, and that are open, in the low one
DRAINED = 19  # everything in flight was answered
FAILED = 20  # and a text: why the process cannot start
PONG = 22  # milliseconds that the longest run of an engine has been going on; 0 where none is

_ASK = struct.Struct("<BBHIIiQ6d")
_ANSWER = struct.Struct("<BBHIQd")
_PRIORITIES = list(Priority)


class Ask(NamedTuple):
    """One image for the engine."""

    kind: int
    priority: int
    candidates: int  # 1 where what was there before suppression is wanted too
    model: int
    slot: int
    refine_steps: int
    number: int  # of the question, unique in its front end
    a: float  # the exponents of the fusion
    b: float
    g: float
    score_threshold: float
    iou_threshold: float
    deadline: float  # on the machine's monotonic clock


class Answer(NamedTuple):
    """What came of an image."""

    kind: int
    code: int  # 0, or one more than the error's place among `PROBLEMS`
    batch: int  # images that ran together
    length: int  # rows, or bytes of the sentence
    number: int  # of the question
    engine: float  # seconds


def head(kind: int, number: int = 0) -> bytes:
    """A packet without records."""
    return HEAD.pack(kind, number)


def read_head(packet: bytes) -> tuple[int, int]:
    """Kind and number."""
    kind, number = HEAD.unpack(packet)
    return kind, number


def pack_ask(ask: Ask) -> bytes:
    """One record."""
    return _ASK.pack(*ask)


def pack_cancel(number: int) -> bytes:
    """One record."""
    return _ASK.pack(CANCEL, 0, 0, 0, 0, 0, number, 0, 0, 0, 0, 0, 0)


def read_asks(packet: bytes) -> list[Ask]:
    """The records of a packet, asked or cancelled."""
    return [Ask._make(record) for record in _ASK.iter_unpack(packet)]


def pack_answer(code: int, batch: int, length: int, number: int, engine: float) -> bytes:
    """One record."""
    return _ANSWER.pack(ANSWER, code, batch, length, number, engine)


def read_answers(packet: bytes) -> list[Answer]:
    """The records of a packet."""
    return [Answer._make(record) for record in _ANSWER.iter_unpack(packet)]


def code_of(priority: Priority) -> int:
    """A priority as a number."""
    return _PRIORITIES.index(priority)


def priority_of(code: int) -> Priority:
    """The priority of a number."""
    return _PRIORITIES[code]


def code_of_error(error: ServiceError) -> int:
    """The code of an answer that is an error."""
    return 1 + PROBLEMS.index(type(error)) if type(error) in PROBLEMS else 1


def error_of(code: int, sentence: str) -> ServiceError:
    """The error of an answer's code."""
    return _error(PROBLEMS[code - 1], sentence)


def error_named(code: str, sentence: str) -> ServiceError:
    """The error of the tree with this code."""
    return _error({kind.code: kind for kind in PROBLEMS}.get(code, ServiceError), sentence)


def _error(kind: type[ServiceError], sentence: str) -> ServiceError:
    return kind(sentence, retry_after=1) if issubclass(kind, ComeBackError) else kind(sentence)

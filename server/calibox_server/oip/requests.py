"""A request of the protocol once it was taken apart, and the parameters that it may carry. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from calibox_server.errors import MalformedRequestError, ParameterError
from calibox_server.oip.tensors import GivenTensor
from calibox_server.options import MAX_TIMEOUT_MS
from calibox_server.queue import Priority

_PRIORITIES = {0: Priority.NORMAL, 1: Priority.HIGH, 2: Priority.NORMAL}  # 0 asks for the default; 1 is the highest
KNOWN_PARAMETERS = ("priority", "timeout", "binary_data_output", "operating_point")
# Parameters of tensors that would change what the data means; any other is a remark and harms nobody.
_UNSUPPORTED = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """One tensor that the answer should hold."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A request that was taken apart, not compared with any model yet."""

    tensors: Sequence[GivenTensor]
    outputs: Sequence[RequestedOutput] = ()  # empty: all
    binary_output: bool = False  # of all outputs, where none is named
    id: str = ""
    timeout_ms: float | None = None
    priority: Priority = Priority.NORMAL
    operating_point: str | None = None  # of the model, for what no input tells


class RequestParameters(NamedTuple):
    """What a request's ``parameters`` say."""

    timeout_ms: float | None
    priority: Priority
    binary: bool  # whether outputs are
    operating_point: str | None


def read_parameters_of(given: object) -> RequestParameters:
    """A request's ``parameters``.

    Raises:
        MalformedRequestError: not an object; a name that the server does not know.
        ParameterError: a value that is not accepted.
    """
    if not isinstance(given, dict):
        raise MalformedRequestError('"parameters" must be an object')
    if unknown := sorted(set(given) - set(KNOWN_PARAMETERS)):
        raise MalformedRequestError(
            f"there is no request parameter {unknown[0]!r:.60}; known are {', '.join(KNOWN_PARAMETERS)}, "
            "and what the model should do is told by its inputs"
        )
    timeout, priority = given.get("timeout", 0), given.get("priority", 0)
    if not _is_whole(timeout) or not 0 <= timeout <= MAX_TIMEOUT_MS * 1000:
        raise ParameterError(
            f"timeout must be whole microseconds within 0..{MAX_TIMEOUT_MS * 1000}, got {timeout!r:.60}"
        )
    if not _is_whole(priority) or priority not in _PRIORITIES:
        raise ParameterError(f"priority must be 1 (high), 2 (normal) or 0 (the default), got {priority!r:.60}")
    binary = given.get("binary_data_output", False)
    if not isinstance(binary, bool):
        raise ParameterError(f"binary_data_output must be true or false, got {binary!r:.60}")
    point = given.get("operating_point")
    if point is not None and not isinstance(point, str):
        raise ParameterError(f"operating_point must be a name, got {point!r:.60}")
    return RequestParameters(timeout / 1000 or None, _PRIORITIES[priority], binary, point)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_tensor_parameters(what: str, given: Mapping[str, Any]) -> None:
    """Refuses parameters of one tensor that ask for something that this server does not have.

    Raises:
        MalformedRequestError: shared memory or classification is asked for.
    """
    for name in _UNSUPPORTED:
        if name in given:
            raise MalformedRequestError(f"{what} asks for {name}, which this server does not have; leave it out")

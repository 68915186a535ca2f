"""Inference requests and answers as HTTP bodies: a JSON object, and the bytes of binary tensors behind it. Pure."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from calibox_server.errors import JsonTooComplexError, MalformedRequestError
from calibox_server.oip.inference import InferAnswer
from calibox_server.oip.requests import InferRequest, RequestedOutput, check_tensor_parameters, read_parameters_of
from calibox_server.oip.tensors import GivenTensor, values_array

# Every list takes 56 bytes of memory and more, so that megabytes of brackets would become gigabytes. The innermost list
# of a nested tensor of pixels, `[0,0,0],`, is 8 characters long; the lists around are few.
BYTES_PER_LIST = 7
FEW_LISTS = 1000

LENGTH_HEADER = "Inference-Header-Content-Length"  # of the JSON object; absent where nothing follows it


def json_length(header: str | None, body: int) -> int:
    """How many bytes of a body are JSON, from the header that says so.

    Args:
        header: its text; None where it was not sent.
        body: length of the whole body.

    Raises:
        MalformedRequestError: not a number, or longer than the body.
    """
    if header is None:
        return body
    # No body has a length of twenty digits; Python itself refuses to read thousands of them.
    if not (header.isascii() and header.isdecimal() and len(header) < 20 and int(header) <= body):
        raise MalformedRequestError(
            f"{LENGTH_HEADER} must be the length of the JSON that the body starts with, at most {body}, "
            f"got {header!r:.40}"
        )
    return int(header)


def read_infer(body: bytes, length: int) -> InferRequest:
    """Takes a body apart; binary data stays where it is.

    Args:
        body: whole.
        length: of the JSON object at its start.

    Raises:
        MalformedRequestError: not what the protocol says; the text says where.
        ParameterError: a parameter's value is not accepted.
    """
    document = _parse(body[:length])
    told = read_parameters_of(document.get("parameters", {}))
    name = document.get("id", "")
    if not isinstance(name, str):
        raise MalformedRequestError(f'"id" must be a string, got {type(name).__name__}')
    return InferRequest(
        tensors=_read_inputs(_objects(document, "inputs"), memoryview(body)[length:]),
        outputs=[_read_output(output, told.binary) for output in _objects(document, "outputs")],
        binary_output=told.binary,
        id=name,
        timeout_ms=told.timeout_ms,
        priority=told.priority,
        operating_point=told.operating_point,
    )


def write_infer(answer: InferAnswer) -> tuple[bytes, int | None]:
    """The body of an answer, and how long its JSON is where binary data follows."""
    document: dict[str, Any] = {"model_name": answer.model, "model_version": answer.version}
    if answer.id:
        document["id"] = answer.id
    outputs, parts = [], [b""]
    for name, tensor in answer.tensors.items():
        output: dict[str, Any] = {"name": name, "datatype": answer.datatypes[name], "shape": tensor.shape}
        if name in answer.binary:
            output["parameters"] = {"binary_data_size": tensor.nbytes}
            parts.append(tensor.tobytes())
        else:
            output["data"] = np.ravel(tensor)
        outputs.append(output)
    parts[0] = orjson.dumps({**document, "outputs": outputs}, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join(parts), len(parts[0]) if answer.binary else None


def _parse(text: bytes) -> dict[str, Any]:
    """The JSON object, unless it has more lists than tensors of its length could have."""
    if text.count(b"[") + text.count(b"{") > FEW_LISTS + len(text) // BYTES_PER_LIST:
        raise JsonTooComplexError("the JSON has more lists than values; send tensors flat, or as binary data")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedRequestError(
            f"the first {len(text)} bytes of the body are not JSON: {error}; where binary data follows, "
            f"{LENGTH_HEADER} says how long the JSON is"
        ) from error
    if not isinstance(document, dict):
        raise MalformedRequestError('the JSON must be an object with "inputs"')
    return document


def _objects(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Named objects of a list; an absent list is an empty one."""
    found = document.get(key, [])
    if not isinstance(found, list):
        raise MalformedRequestError(f'"{key}" must be a list')
    for i, entry in enumerate(found):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise MalformedRequestError(f'entry {i} of "{key}" must be an object with a "name"')
        if not isinstance(entry.get("parameters", {}), dict):
            raise MalformedRequestError(f'"parameters" of entry {i} of "{key}" must be an object')
    return found


def _read_inputs(entries: Sequence[dict[str, Any]], binary: memoryview) -> list[GivenTensor]:
    tensors = []
    for entry in entries:
        shape, datatype = entry.get("shape"), entry.get("datatype")
        if not isinstance(shape, list) or not all(_is_size(size) for size in shape) or not isinstance(datatype, str):
            raise MalformedRequestError(f'{_called(entry)} needs a "datatype" and a "shape" of whole numbers from 0 on')
        check_tensor_parameters(_called(entry), entry.get("parameters", {}))
        data, binary = _read_data(entry, binary)
        tensors.append(GivenTensor(entry["name"], datatype, tuple(shape), data))
    if binary.nbytes:
        raise MalformedRequestError(f"{binary.nbytes} bytes of binary data belong to no input")
    return tensors


def _read_data(entry: dict[str, Any], binary: memoryview) -> tuple[Any, memoryview]:
    """An input's data, and the binary data behind it."""
    size = entry.get("parameters", {}).get("binary_data_size")
    if (size is None) == ("data" not in entry):
        raise MalformedRequestError(f'{_called(entry)} needs either "data" or the parameter binary_data_size')
    if size is None:
        if not isinstance(entry["data"], list):
            raise MalformedRequestError(f'"data" of {_called(entry)} must be a list')
        return values_array(_called(entry), entry["data"], entry["datatype"]), binary
    if not _is_size(size) or size > binary.nbytes:
        raise MalformedRequestError(
            f"binary_data_size of {_called(entry)} must be at most {binary.nbytes}, the bytes that the body has left, "
            f"got {size!r:.40}"
        )
    return binary[:size], binary[size:]


def _read_output(entry: dict[str, Any], binary_output: bool) -> RequestedOutput:
    parameters = entry.get("parameters", {})
    called = f"output {entry['name']!r:.60}"
    check_tensor_parameters(called, parameters)
    binary = parameters.get("binary_data", binary_output)
    if not isinstance(binary, bool):
        raise MalformedRequestError(f"binary_data of {called} must be true or false, got {binary!r:.40}")
    return RequestedOutput(entry["name"], binary)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _called(entry: dict[str, Any]) -> str:
    return f"input {entry['name']!r:.60}"

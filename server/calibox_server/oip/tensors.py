"""Tensors as the protocol carries them, against those that a bundle's graph has. Pure.

Letters: B images, N rows of the outputs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from calibox_core.graph_contract import Signature, candidate_outputs, graph_contract
from calibox_core.manifest import Manifest
from calibox_server.engine_runner import RawDetections
from calibox_server.errors import MalformedRequestError

# As the protocol names them; binary data is little-endian.
DTYPES: Mapping[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "INT32": np.dtype("<i4"), "FP32": np.dtype("<f4")}
_NAMES = {"tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float)": "FP32"}
_PADDING = {"labels": -1}  # of the graph's outputs; the others are padded with 0


class TensorSpec(NamedTuple):
    """One input or output of a model."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # the first is -1: any number of images


@dataclass(frozen=True, slots=True)
class GivenTensor:
    """One input as it was sent, not compared with any model yet."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: memoryview | NDArray[Any]  # bytes in row-major order, or values of this type, flat or nested


def inputs_of(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The tensors that a request may send. Only the first, ``images``, must be there."""
    return _specs(graph_contract(manifest)[0])


def outputs_of(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """The tensors of an answer."""
    return _specs(graph_contract(manifest)[1])


def candidate_outputs_of(manifest: Manifest) -> tuple[TensorSpec, ...]:
    """Further tensors, which an answer holds only where they are named: what the graph had before suppression."""
    return _specs(candidate_outputs(manifest))


def _specs(signature: Signature) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, _NAMES[kind], tuple(-1 if size is None else size for size in shape))
        for name, (kind, shape) in signature.items()
    )


def values_array(called: str, values: Sequence[Any], datatype: str) -> NDArray[Any]:
    """Values of a JSON or protocol buffer list, flat or nested, as an array of their type.

    Args:
        called: how a sentence calls the tensor.
        values: of a list.
        datatype: as the protocol names it; one that no tensor has is left to `to_array` to refuse.

    Raises:
        MalformedRequestError: not an array, not numbers, or out of the type's range.
    """
    try:
        array = np.array(values)
    except ValueError as error:
        raise MalformedRequestError(f"the data of {called} is no array: {error}") from error
    if array.dtype.kind not in "iuf":
        _refuse(f"the data of {called} must be numbers that fit into its datatype")
    dtype = DTYPES.get(datatype, array.dtype)
    if dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        if array.dtype.kind == "f" or array.min() < bounds.min or array.max() > bounds.max:
            _refuse(f"the data of {called} must be whole numbers within {bounds.min}..{bounds.max}")
    with np.errstate(over="ignore"):  # becomes infinite; who uses the value refuses that
        return array.astype(dtype, copy=False)


def read_tensors(given: Sequence[GivenTensor], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """The inputs by name, each with the type and shape that the graph has; binary ones are views of what was sent.

    Raises:
        MalformedRequestError: unknown, twice, missing, of another type or shape, or with another number of images.
    """
    specs = {spec.name: spec for spec in inputs_of(manifest)}
    arrays: dict[str, NDArray[Any]] = {}
    for tensor in given:
        if tensor.name not in specs:
            _refuse(f"there is no input {tensor.name!r:.60}; the model takes {', '.join(specs)}")
        if tensor.name in arrays:
            _refuse(f"input {tensor.name} is given twice")
        arrays[tensor.name] = to_array(tensor, specs[tensor.name])
    if "images" not in arrays:
        _refuse("the input images is missing")
    images = len(arrays["images"])
    for name, array in arrays.items():
        if len(array) != images:
            _refuse(f"input {name} has {len(array)} rows for {images} images; it needs one for each")
    return arrays


def to_array(given: GivenTensor, spec: TensorSpec) -> NDArray[Any]:
    """One input as an array; a view where binary data was sent.

    Raises:
        MalformedRequestError: of another type or shape than ``spec``, or with more or fewer values than announced.
    """
    if given.datatype != spec.datatype:
        _refuse(f"input {spec.name} must be {spec.datatype}, got {given.datatype!r:.20}")
    fits = len(given.shape) == len(spec.shape) and given.shape[1:] == spec.shape[1:] and given.shape[0] >= 0
    if not fits:
        _refuse(f"input {spec.name} must have the shape {_shown(spec.shape)}, got {_shown(given.shape)}")
    return _from_bytes(given, DTYPES[spec.datatype]) if isinstance(given.data, memoryview) else _from_values(given)


def _from_bytes(given: GivenTensor, dtype: np.dtype[Any]) -> NDArray[Any]:
    assert isinstance(given.data, memoryview)  # `to_array` asked
    needed = math.prod(given.shape) * dtype.itemsize
    if given.data.nbytes != needed:
        _refuse(f"input {given.name} of {_shown(given.shape)} takes {needed} bytes, got {given.data.nbytes}")
    return np.frombuffer(given.data, dtype).reshape(given.shape)


def _from_values(given: GivenTensor) -> NDArray[Any]:
    values = given.data
    assert isinstance(values, np.ndarray)  # `to_array` asked
    if values.size != math.prod(given.shape) or (values.ndim > 1 and values.size and values.shape != given.shape):
        _refuse(
            f"input {given.name} of {_shown(given.shape)} takes {math.prod(given.shape)} values, flat or nested like "
            f"this, got {_shown(values.shape)}"
        )
    return values.reshape(given.shape)


def answer_tensors(raw: Sequence[RawDetections], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """The graph's outputs of several images side by side, padded to N rows as the graph itself pads them."""
    arrays = {}
    for spec in outputs_of(manifest):
        shape = (len(raw), *spec.shape[1:])
        arrays[spec.name] = array = np.full(shape, _PADDING.get(spec.name, 0), DTYPES[spec.datatype])
        for image, one in enumerate(raw):
            rows = getattr(one.rows, spec.name)
            of_image = array[image] if array.ndim > 1 else array[image : image + 1]  # the count has no rows
            of_image[: len(rows)] = rows
    return arrays


def candidate_tensors(raw: Sequence[RawDetections], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """What the graph had before suppression, of several images side by side, each with its own padding."""
    arrays = {}
    for spec in candidate_outputs_of(manifest):
        arrays[spec.name] = array = np.empty((len(raw), *spec.shape[1:]), DTYPES[spec.datatype])
        for image, one in enumerate(raw):
            array[image] = getattr(one.candidates, spec.name)
    return arrays


def _shown(shape: Sequence[int]) -> str:
    sizes = ["B" if size == -1 else str(size) for size in shape[:8]]  # a sentence, not an echo of the request
    return f"[{', '.join(sizes)}{', ...' if len(shape) > 8 else ''}]"


def _refuse(sentence: str) -> NoReturn:
    raise MalformedRequestError(sentence)

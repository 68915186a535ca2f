"""Inputs and outputs of a TensorRT engine, held against the graph contract."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from calibox_core.engines import EngineError
from calibox_core.errors import BundleError
from calibox_core.graph_contract import graph_contract
from calibox_core.manifest import Manifest
from calibox_server.onnxruntime_engine import check_contract
from calibox_server.tensorrt.api import CudaEngine

_KINDS = {"UINT8": "tensor(uint8)", "INT32": "tensor(int32)", "FLOAT": "tensor(float)"}  # by TensorRT's names
_DTYPES: Mapping[str, DTypeLike] = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output."""

    dtype: DTypeLike
    row: tuple[int, ...]  # shape without the batch

    def shape(self, batch: int) -> tuple[int, ...]:
        """Of a whole batch."""
        return (batch, *self.row)

    def size(self, batch: int) -> int:
        """Bytes of a whole batch."""
        return math.prod(self.shape(batch)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True)
class Tensors:
    """All of an engine, by name."""

    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    unread: Mapping[str, Tensor]  # further outputs (`candidate_boxes`, ...): TensorRT writes each or runs nothing


def read_tensors(engine: CudaEngine, manifest: Manifest, place: Path) -> Tensors:
    """What goes in and out of an engine.

    Args:
        engine: deserialised.
        manifest: of its bundle.
        place: of the engine, for errors.

    Raises:
        EngineError: it does not follow the graph contract, or wants an input in host memory.
    """
    inputs, outputs = dict(_signatures(engine, "INPUT", place)), dict(_signatures(engine, "OUTPUT", place))
    expected_inputs, expected_outputs = graph_contract(manifest)
    try:
        check_contract(inputs, outputs, manifest)
    except BundleError as error:
        raise EngineError(f"{place}: {error}, then build the engine again") from error
    return Tensors(
        {name: _tensor(*expected_inputs[name]) for name in expected_inputs},
        {name: _tensor(*expected_outputs[name]) for name in expected_outputs},
        {name: _tensor(*found) for name, found in outputs.items() if name not in expected_outputs},
    )


def _tensor(kind: str, shape: tuple[int | None, ...]) -> Tensor:
    return Tensor(_DTYPES[kind], tuple(size for size in shape[1:] if size is not None))


def _signatures(engine: CudaEngine, mode: str, place: Path) -> Iterator[tuple[str, tuple[str, tuple[int | None, ...]]]]:
    """Names with types and shapes, as `check_contract` takes them."""
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_mode(name).name != mode:
            continue
        if engine.get_tensor_location(name).name != "DEVICE":
            raise EngineError(
                f"{place} wants {name} in host memory, because shapes depend on it: export the bundle again with this "
                "version of calibox, then build the engine again"
            )
        kind = engine.get_tensor_dtype(name).name
        shape = tuple(None if size < 0 else size for size in engine.get_tensor_shape(name))
        yield name, (_KINDS.get(kind, f"tensor({kind.lower()})"), shape)

"""What Triton gives to a model of its Python back end (`triton_python_backend_utils`), as far as this project uses it.

The graph's model behind it is ONNX Runtime in this process. It checks what Triton would refuse: names, types and shapes
that config.pbtxt does not have.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2

MODULE = "triton_python_backend_utils"
_DTYPES = {"TYPE_UINT8": "uint8", "TYPE_INT32": "int32", "TYPE_FP32": "float32", "TYPE_FP64": "float64"}


def read_config(folder: Path) -> Any:
    """A model's config.pbtxt, parsed by Triton's own description of it."""
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


class Tensor:
    """A named array."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> NDArray[Any]:
        """The array."""
        return self._array


class TritonError:
    """A sentence and a code."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "invalid", "unavailable", "internal"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        """The sentence."""
        return self._message

    def code(self) -> str:
        """The code."""
        return self._code


class InferenceResponse:
    """Tensors, or an error."""

    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self.tensors, self._error = {tensor.name: tensor for tensor in output_tensors}, error

    def has_error(self) -> bool:
        """Whether it is one."""
        return self._error is not None

    def error(self) -> TritonError:
        """The error."""
        assert self._error is not None
        return self._error


class Request:
    """A request as it comes to a model."""

    def __init__(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> None:
        self.tensors = {name: Tensor(name, array) for name, array in inputs.items()}
        self._outputs = outputs

    def requested_output_names(self) -> Sequence[str]:
        """Of the tensors that are wanted."""
        return self._outputs

    def request_id(self) -> str:
        """As the client named it."""
        return "seventeen"

    def timeout(self) -> int:
        """Microseconds, 0 for none."""
        return 0


class FakeTriton:
    """The models of a repository: the graph's by ONNX Runtime, the one around it by its model.py.

    Args:
        repository: as `calibox export --triton` wrote it.
        model: the graph's.
    """

    def __init__(self, repository: Path, model: str) -> None:
        self.repository, self.model = repository, model
        self.config = read_config(repository / model)
        self.graph = onnxruntime.InferenceSession(repository / model / "1" / "model.onnx")
        self.refusal: TritonError | None = None  # of the graph's model, where it should refuse
        self.asked: list[Any] = []  # of the graph's model

    def module(self) -> Any:
        """`triton_python_backend_utils`."""
        fake = self

        class InferenceRequest(SimpleNamespace):
            async def async_exec(self) -> InferenceResponse:
                fake.asked.append(self)
                return fake.refuse_or_run(self)

        return SimpleNamespace(
            Tensor=Tensor,
            TritonError=TritonError,
            InferenceResponse=InferenceResponse,
            InferenceRequest=InferenceRequest,
            PreferredMemory=lambda kind, device: (kind, device),
            TRITONSERVER_MEMORY_CPU="cpu",
            Logger=SimpleNamespace(log_error=self.asked.append),
            get_input_tensor_by_name=lambda request, name: request.tensors.get(name),
            get_output_tensor_by_name=lambda response, name: response.tensors[name],
        )

    def refuse_or_run(self, asked: Any) -> InferenceResponse:
        """As the graph's model."""
        if self.refusal is not None:
            return InferenceResponse([], self.refusal)
        assert (asked.model_name, asked.model_version) == (self.model, 1)
        specs = {tensor.name: tensor for tensor in self.config.input}
        feeds = {}
        for tensor in asked.inputs:
            array, spec = tensor.as_numpy(), specs.pop(tensor.name)
            assert array.dtype.name == _DTYPES[model_config_pb2.DataType.Name(spec.data_type)]
            assert array.shape == (1, *spec.dims), tensor.name
            feeds[tensor.name] = array.reshape(1, *spec.reshape.shape) if spec.HasField("reshape") else array
        assert not specs, "every input of the graph must be sent"
        found = self.graph.run(asked.requested_output_names, feeds)
        rows = dict(zip(asked.requested_output_names, found, strict=True))
        shaped = {t.name: rows[t.name].reshape(1, *t.dims) for t in self.config.output if t.name in rows}
        return InferenceResponse([Tensor(name, array) for name, array in shaped.items()])

    def detect_model(self) -> Any:
        """The initialised model of `<model>_detect`, from the model.py that was written."""
        name = f"{self.model}_detect"
        folder = self.repository / name
        scope: dict[str, Any] = {}
        exec((folder / "1" / "model.py").read_text(), scope)
        model = scope["TritonPythonModel"]()
        config = json_format.MessageToJson(read_config(folder), preserving_proto_field_name=True)
        model.initialize({"model_config": config, "model_repository": str(folder), "model_version": "1"})
        return model


@contextmanager
def fake_triton(repository: Path, model: str) -> Iterator[FakeTriton]:
    """A Triton whose module can be imported inside the block."""
    fake = FakeTriton(repository, model)
    sys.modules[MODULE] = fake.module()
    try:
        yield fake
    finally:
        del sys.modules[MODULE]


def column(values: Sequence[Any], dtype: Any = np.object_) -> NDArray[Any]:
    """One value per image, as a request carries them: ``[B, 1]``."""
    return np.array([[value] for value in values], dtype)

"""The protocol's messages, and inference requests and answers as such.

The messages are made when this is imported, from descriptors that `make protocol` compiles of the `.proto` files. Code
that a compiler writes would tie the package to one version of protocol buffers, and would register the names
``inference.*`` for the whole process, where any other client of the protocol has them already; these are in a pool of
their own.
"""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClassesForFiles

from calibox_server.errors import MalformedRequestError
from calibox_server.oip.inference import InferAnswer
from calibox_server.oip.requests import InferRequest, RequestedOutput, check_tensor_parameters, read_parameters_of
from calibox_server.oip.tensors import GivenTensor, values_array

DESCRIPTORS = "protocol.binpb"
# The field of `InferTensorContents` that has the values of each type.
_CONTENTS = {"UINT8": "uint_contents", "INT32": "int_contents", "FP32": "fp32_contents"}


def _make_messages() -> Mapping[str, Any]:
    data = resources.files("calibox_server.oip").joinpath(DESCRIPTORS).read_bytes()
    files = FileDescriptorSet.FromString(data).file
    pool = DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    messages: Mapping[str, Any] = GetMessageClassesForFiles([file.name for file in files], pool)
    return messages


MESSAGES: Mapping[str, Any] = _make_messages()  # by full name, such as "inference.ModelInferRequest"


def message(name: str) -> Any:
    """The class of one of the protocol's own messages."""
    return MESSAGES[f"inference.{name}"]


def read_infer(request: Any) -> InferRequest:
    """Takes a ``ModelInferRequest`` apart.

    Raises:
        MalformedRequestError: raw and typed contents are mixed, or contents are missing; a parameter is unknown.
        ParameterError: a parameter's value is not accepted.
    """
    told = read_parameters_of(_parameters(request.parameters))
    for output in request.outputs:
        check_tensor_parameters(f"output {output.name!r:.60}", output.parameters)
    return InferRequest(
        tensors=_read_inputs(request),
        outputs=[RequestedOutput(output.name, binary=True) for output in request.outputs],
        binary_output=True,
        id=request.id,
        timeout_ms=told.timeout_ms,
        priority=told.priority,
        operating_point=told.operating_point,
    )


def write_infer(answer: InferAnswer) -> Any:
    """The ``ModelInferResponse`` of an answer, all tensors raw."""
    outputs = [
        {"name": name, "datatype": answer.datatypes[name], "shape": tensor.shape}
        for name, tensor in answer.tensors.items()
    ]
    return message("ModelInferResponse")(
        model_name=answer.model,
        model_version=answer.version,
        id=answer.id,
        outputs=outputs,
        raw_output_contents=[tensor.tobytes() for tensor in answer.tensors.values()],
    )


def _read_inputs(request: Any) -> list[GivenTensor]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise MalformedRequestError(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs; send one for each, or none"
        )
    tensors = []
    for i, tensor in enumerate(request.inputs):
        called = f"input {tensor.name!r:.60}"
        check_tensor_parameters(called, tensor.parameters)
        if raw and tensor.HasField("contents"):
            raise MalformedRequestError(f"{called} has contents beside raw_input_contents; send one of them")
        data = memoryview(raw[i]) if raw else _typed(called, tensor)
        tensors.append(GivenTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    return tensors


def _typed(called: str, tensor: Any) -> Any:
    field = _CONTENTS.get(tensor.datatype)
    # No input has another datatype, and the sentence that says so comes when the tensor meets its model.
    return values_array(called, list(getattr(tensor.contents, field)) if field else [], tensor.datatype)


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], field) if field else None for name, field in chosen.items()}

"""The protocol's messages over gRPC: the same numbers as others use, and requests taken apart."""

import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

import calibox_server.oip
from calibox_server.errors import MalformedRequestError, OverloadedError, ParameterError, StoppingError
from calibox_server.oip.grpc_calls import address_of, trailing_metadata
from calibox_server.oip.grpc_messages import DESCRIPTORS, MESSAGES, message, read_infer
from calibox_server.queue import Priority

FOLDER = Path(str(resources.files(calibox_server.oip)))


def fields(descriptor: Any) -> dict[str, tuple[int, int, bool]]:
    """Of a message: name to number, type and whether it is repeated."""
    return {field.name: (field.number, field.type, field.is_repeated) for field in descriptor.fields}


def test_the_compiled_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    sources = ("inference.proto", "health.proto")
    target = tmp_path / "fresh"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{FOLDER}", f"--descriptor_set_out={target}", *sources]
    subprocess.run(command, check=True, cwd=FOLDER)
    assert target.read_bytes() == (FOLDER / DESCRIPTORS).read_bytes(), "run: make protocol"


def test_nothing_of_grpc_is_imported_where_no_port_is_set() -> None:
    code = "import sys, calibox_server.serve; print(sorted({'grpc', 'google.protobuf'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_every_message_has_the_numbers_and_types_that_triton_has() -> None:
    checked = 0
    for name, ours in MESSAGES.items():
        if not name.startswith("inference."):
            continue
        theirs = service_pb2.DESCRIPTOR.message_types_by_name[name.removeprefix("inference.")]
        pairs = [(ours.DESCRIPTOR, theirs)]
        for inner in ours.DESCRIPTOR.nested_types:
            pairs.append((inner, theirs.nested_types_by_name[inner.name]))
        for mine, other in pairs:
            assert fields(mine).items() <= fields(other).items(), mine.full_name
            checked += len(mine.fields)
    assert checked == 60  # counted in inference.proto, with two for each map of a message


def infer_input(name: str = "images", datatype: str = "UINT8", shape: tuple[int, ...] = (4,), **contents: Any) -> Any:
    typed = {"contents": contents} if contents else {}
    return {"name": name, "datatype": datatype, "shape": shape, **typed}


def request(*inputs: Any, **more: Any) -> Any:
    return message("ModelInferRequest")(model_name="m", inputs=inputs, **more)


def parameters(**values: Any) -> dict[str, Any]:
    return {name: message("InferParameter")(**value) for name, value in values.items()}


def test_raw_and_typed_contents_are_read() -> None:
    raw = read_infer(request(infer_input(), id="7", raw_input_contents=[b"abcd"]))
    assert isinstance(raw.tensors[0].data, memoryview)
    assert (bytes(raw.tensors[0].data), raw.tensors[0].shape, raw.id) == (b"abcd", (4,), "7")
    typed = read_infer(
        request(
            infer_input(uint_contents=[1, 2, 3, 255]),
            infer_input("fusion", "FP32", (1, 3), fp32_contents=[1, 0.5, 0]),
            infer_input("refine_steps", "INT32", (1,), int_contents=[-1]),
        )
    )
    assert [np.asarray(t.data).tolist() for t in typed.tensors] == [[1, 2, 3, 255], [1, 0.5, 0], [-1]]


def test_parameters_and_outputs_are_read() -> None:
    point = {"string_param": "precision90"}
    given = parameters(timeout={"int64_param": 2000}, priority={"uint64_param": 1}, operating_point=point)
    asked = read_infer(request(parameters=given, outputs=[{"name": "boxes"}]))
    assert (asked.timeout_ms, asked.priority, asked.operating_point) == (2.0, Priority.HIGH, "precision90")
    assert [(output.name, output.binary) for output in asked.outputs] == [("boxes", True)]


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (
            request(infer_input(), infer_input("x"), raw_input_contents=[b"a"]),
            "has 1 entries for 2 inputs; send one for",
        ),
        (
            request(infer_input(uint_contents=[1]), raw_input_contents=[b"a"]),
            "input 'images' has contents beside raw_input_contents",
        ),
        (request(parameters=parameters(sequence_id={"int64_param": 3})), "no request parameter 'sequence_id'"),
        (
            request(infer_input() | {"parameters": parameters(shared_memory_region={"string_param": "r"})}),
            "input 'images' asks for shared_memory_region",
        ),
        (
            request(outputs=[{"name": "boxes", "parameters": parameters(classification={"int64_param": 3})}]),
            "output 'boxes' asks for classification",
        ),
    ],
)
def test_a_message_that_means_nothing_here_is_told_so(asked: Any, sentence: str) -> None:
    with pytest.raises(MalformedRequestError, match=sentence):
        read_infer(asked)


@pytest.mark.parametrize("value", [{}, {"string_param": "1000"}, {"int64_param": -1}, {"double_param": 1.5}])
def test_a_timeout_that_is_none_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="timeout must be whole microseconds"):
        read_infer(request(parameters=parameters(timeout=value)))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:5000", "10.0.0.1"),
        ("ipv6:%5B::1%5D:5000", "::1"),
        ("ipv6:[2001:db8::7]:5000", "2001:db8::7"),
        ("unix:/run/x", "/run/x"),
    ],
)
def test_a_callers_address_is_read_from_the_name_that_grpc_gives_it(peer: str, address: str) -> None:
    assert address_of(peer) == address


def test_errors_carry_their_code_and_when_to_ask_again() -> None:
    full = dict(trailing_metadata(OverloadedError("full", retry_after=3)))
    assert full == {"calibox-code": "overloaded", "grpc-retry-pushback-ms": "3000"}
    assert dict(trailing_metadata(StoppingError("x")))["grpc-retry-pushback-ms"] == "1000"
    assert trailing_metadata(MalformedRequestError("x")) == (("calibox-code", "malformed"),)

"""Bodies of the Open Inference Protocol over HTTP: what they mean, and a sentence for each that means nothing."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_server.errors import JsonTooComplexError, MalformedRequestError, ParameterError, ServiceError
from calibox_server.oip.http_body import json_length, read_infer, write_infer
from calibox_server.oip.inference import InferAnswer
from calibox_server.oip.requests import InferRequest, RequestedOutput
from calibox_server.queue import Priority

INPUT = {"name": "images", "datatype": "UINT8", "shape": [4], "data": [1, 2, 3, 4]}


def read(document: Any, binary: bytes = b"") -> InferRequest:
    text = orjson.dumps(document)
    return read_infer(text + binary, len(text))


def binary_input(size: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "images", "datatype": "UINT8", "shape": [4], "parameters": {"binary_data_size": size}, **fields}


def test_a_request_in_json_alone() -> None:
    asked = read(
        {
            "id": "seven",
            "parameters": {"timeout": 1500, "priority": 1},
            "inputs": [INPUT, {"name": "fusion", "datatype": "FP32", "shape": [1, 3], "data": [[1, 0.5, 0]]}],
            "outputs": [{"name": "boxes"}, {"name": "scores", "parameters": {"binary_data": True}}],
        }
    )
    assert (asked.id, asked.timeout_ms, asked.priority, asked.binary_output) == ("seven", 1.5, Priority.HIGH, False)
    assert asked.outputs == [RequestedOutput("boxes", False), RequestedOutput("scores", True)]
    assert [(t.name, t.datatype, t.shape) for t in asked.tensors] == [
        ("images", "UINT8", (4,)),
        ("fusion", "FP32", (1, 3)),
    ]
    assert np.asarray(asked.tensors[0].data).tolist() == [1, 2, 3, 4]
    assert np.asarray(asked.tensors[1].data).tolist() == [[1, 0.5, 0]]


def test_binary_tensors_follow_the_json_in_their_order() -> None:
    thresholds = binary_input(4, name="iou_threshold", datatype="FP32", shape=[1])
    document = {
        "inputs": [binary_input(4), INPUT | {"name": "x"}, thresholds],
        "parameters": {"binary_data_output": True},
    }
    asked = read(document, b"abcd\0\0\0\x3f")
    first, _, last = asked.tensors
    assert isinstance(first.data, memoryview)
    assert isinstance(last.data, memoryview)
    assert (bytes(first.data), bytes(last.data)) == (b"abcd", b"\0\0\0\x3f")
    assert (asked.binary_output, asked.outputs, asked.timeout_ms) == (True, [], None)


def test_parameters_of_a_tensor_that_are_only_remarks_are_left_alone() -> None:
    assert read({"inputs": [INPUT | {"parameters": {"content_type": "np"}}]}).tensors[0].name == "images"


@pytest.mark.parametrize(
    ("document", "binary", "sentence"),
    [
        ([], b"", 'the JSON must be an object with "inputs"'),
        ({"inputs": {}}, b"", '"inputs" must be a list'),
        ({"inputs": [3]}, b"", 'entry 0 of "inputs" must be an object with a "name"'),
        ({"inputs": [INPUT, {"name": 3}]}, b"", 'entry 1 of "inputs" must be an object with a "name"'),
        ({"inputs": [INPUT | {"parameters": []}]}, b"", '"parameters" of entry 0 of "inputs" must be an object'),
        ({"inputs": [INPUT | {"shape": 4}]}, b"", "input 'images' needs a \"datatype\" and a \"shape\""),
        ({"inputs": [INPUT | {"shape": [True]}]}, b"", "input 'images' needs a \"datatype\" and a \"shape\""),
        ({"inputs": [INPUT | {"shape": [-1]}]}, b"", "input 'images' needs a \"datatype\" and a \"shape\""),
        ({"inputs": [INPUT | {"datatype": None}]}, b"", "input 'images' needs a \"datatype\" and a \"shape\""),
        ({"inputs": [INPUT | {"data": "abcd"}]}, b"", "\"data\" of input 'images' must be a list"),
        ({"inputs": [INPUT | {"data": ["a"]}]}, b"", "the data of input 'images' must be numbers"),
        ({"inputs": [binary_input(4, data=[1])]}, b"abcd", "needs either \"data\" or the parameter binary_data_size"),
        ({"inputs": [binary_input(None)]}, b"abcd", "needs either \"data\" or the parameter binary_data_size"),
        ({"inputs": [binary_input(5)]}, b"abcd", "binary_data_size of input 'images' must be at most 4, .* got 5"),
        ({"inputs": [binary_input(-1)]}, b"abcd", "binary_data_size of input 'images' must be at most 4, .* got -1"),
        ({"inputs": [binary_input("4")]}, b"abcd", "binary_data_size of input 'images' must be at most 4, .* got '4'"),
        ({"inputs": [binary_input(3)]}, b"abcd", "1 bytes of binary data belong to no input"),
        ({"inputs": [INPUT]}, b"abcd", "4 bytes of binary data belong to no input"),
        ({"id": 7}, b"", '"id" must be a string, got int'),
        ({"parameters": []}, b"", '"parameters" must be an object'),
        ({"parameters": {"sequence_id": 3}}, b"", "there is no request parameter 'sequence_id'; known are"),
        ({"outputs": [{"name": "x", "parameters": {"binary_data": 1}}]}, b"", "binary_data of output 'x' must be"),
        ({"outputs": [{"name": "x", "parameters": {"classification": 3}}]}, b"", "output 'x' asks for classification"),
        (
            {"inputs": [INPUT | {"parameters": {"shared_memory_region": "r"}}]},
            b"",
            "input 'images' asks for shared_memory_region, which this server does not have",
        ),
    ],
)  # fmt: skip
def test_a_malformed_body_is_told_what_is_wrong(document: Any, binary: bytes, sentence: str) -> None:
    with pytest.raises(MalformedRequestError, match=sentence):
        read(document, binary)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"timeout": -1}, "timeout must be whole microseconds within 0..600000000, got -1"),
        ({"timeout": 1.5}, "timeout must be whole microseconds"),
        ({"timeout": True}, "timeout must be whole microseconds"),
        ({"priority": 3}, r"priority must be 1 \(high\), 2 \(normal\) or 0 \(the default\), got 3"),
        ({"priority": "high"}, "priority must be 1"),
        ({"operating_point": 90}, "operating_point must be a name, got 90"),
        ({"binary_data_output": 1}, "binary_data_output must be true or false, got 1"),
    ],
)
def test_a_parameter_that_is_not_accepted_is_told_with_its_range(parameters: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ParameterError, match=sentence):
        read({"parameters": parameters, "inputs": [INPUT]})


def test_what_is_not_json_is_told_how_to_send_binary_data() -> None:
    with pytest.raises(MalformedRequestError, match=r"the first 3 bytes of the body are not JSON.*Inference-Header"):
        read_infer(b"\xff\0\1rest", 3)


def test_more_lists_than_tensors_have_are_refused_before_they_are_made() -> None:
    with pytest.raises(JsonTooComplexError, match="more lists than values"):
        read_infer(b'{"inputs": [' + b"[]," * 2000 + b"[]]}", 6020)
    pixels = orjson.dumps({"inputs": [INPUT | {"data": np.zeros((50, 50, 3), int).tolist()}]})
    assert np.shape(read_infer(pixels, len(pixels)).tensors[0].data) == (50, 50, 3)


@pytest.mark.parametrize(("header", "length"), [(None, 10), ("10", 10), ("3", 3), ("0", 0)])
def test_the_length_of_the_json_is_what_the_header_says(header: str | None, length: int) -> None:
    assert json_length(header, 10) == length


@pytest.mark.parametrize("header", ["11", "-1", "", "x", "1.0", "٣", "9" * 5000, "+3", " 3"])
def test_a_length_that_is_no_length_is_refused(header: str) -> None:
    with pytest.raises(
        MalformedRequestError, match="must be the length of the JSON that the body starts with, at most 10"
    ):
        json_length(header, 10)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)  # JSON has no lone surrogates
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
odd_inputs = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("name", "datatype", "shape", "data", "parameters"), json_values)),
    max_size=3,
)
documents = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "parameters", "inputs", "outputs"), json_values | odd_inputs)
)


def refusal(text: bytes, binary: bytes) -> ServiceError | None:
    try:
        read_infer(text + binary, len(text))
    except ServiceError as error:
        return error
    return None


@given(documents, st.binary(max_size=9))
def test_whatever_the_json_holds_is_read_or_refused_in_words(document: dict[str, Any], binary: bytes) -> None:
    error = refusal(orjson.dumps(document), binary)
    assert error is None or (400 <= error.status < 500 and str(error))


def answer(*binary: str) -> InferAnswer:
    tensors = {
        "num_detections": np.array([1, 0], np.int32),
        "boxes": np.arange(8, dtype=np.float32).reshape(2, 1, 4) / 3,
    }
    datatypes = {"num_detections": "INT32", "boxes": "FP32"}
    return InferAnswer(
        model="m",
        version="3",
        id="x",
        tensors=tensors,
        datatypes=datatypes,
        binary=frozenset(binary),
    )


def test_an_answer_in_json_keeps_every_digit_of_its_floats() -> None:
    body, length = write_infer(answer())
    assert length is None
    document = orjson.loads(body)
    assert (document["model_name"], document["model_version"], document["id"]) == ("m", "3", "x")
    count, boxes = document["outputs"]
    assert count == {"name": "num_detections", "datatype": "INT32", "shape": [2], "data": [1, 0]}
    assert (boxes["datatype"], boxes["shape"]) == ("FP32", [2, 1, 4])
    assert np.array_equal(np.array(boxes["data"], np.float32), np.arange(8, dtype=np.float32) / 3)


def test_an_answer_may_be_binary_in_part() -> None:
    body, length = write_infer(answer("boxes"))
    assert length is not None
    count, boxes = orjson.loads(body[:length])["outputs"]
    assert count["data"] == [1, 0]
    assert boxes["parameters"] == {"binary_data_size": 32}
    assert "data" not in boxes
    assert np.array_equal(np.frombuffer(body[length:], "<f4"), np.arange(8, dtype=np.float32) / 3)

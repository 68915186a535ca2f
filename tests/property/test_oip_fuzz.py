"""Damaged requests of the Open Inference Protocol: always an answer, never one that blames the server."""

from collections.abc import Iterator

import grpc
import httpx2
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibox_server.oip.grpc_messages import MESSAGES
from calibox_server.oip.http_body import LENGTH_HEADER
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import grpc_address, running, server_url

IMAGE = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
SMALL_TENSORS = {
    "iou_threshold": ("FP32", [1], np.array([0.5], "<f4")),
    "fusion": ("FP32", [1, 3], np.array([[1, 1, 0]], "<f4")),
}
TENSORS = {"images": ("UINT8", list(IMAGE.shape), IMAGE), **SMALL_TENSORS}
HEAD = orjson.dumps(
    {
        "id": "1",
        "parameters": {"timeout": 9_000_000, "binary_data_output": True},
        "inputs": [
            {"name": name, "datatype": kind, "shape": shape, "parameters": {"binary_data_size": array.nbytes}}
            for name, (kind, shape, array) in TENSORS.items()
        ],
        "outputs": [{"name": "boxes"}, {"name": "scores", "parameters": {"binary_data": False}}],
    }
)
BINARY = b"".join(array.tobytes() for _, _, array in TENSORS.values())
MESSAGE = MESSAGES["inference.ModelInferRequest"](
    model_name="tiny",
    inputs=[{"name": name, "datatype": kind, "shape": shape} for name, (kind, shape, _) in TENSORS.items()],
    raw_input_contents=[array.tobytes() for _, _, array in TENSORS.values()],
).SerializeToString()
# 504 is an honest answer to a timeout that a mutation made a few microseconds long.
OK = {200, 400, 404, 408, 413, 415, 422, 429, 504}
OK_GRPC = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root, height=32, width=32)
    service = Service.load(Settings(models=root, grpc_port=0, log_level="error"))
    with running(service) as server:
        yield server_url(server), grpc_address(server)


@pytest.fixture(scope="module")
def client(addresses: tuple[str, str]) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=addresses[0], timeout=PATIENCE_S) as client:
        yield client


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes changed, a piece left out or twice there, or cut."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["change", "drop", "insert", "repeat", "cut"])):
            case "change":
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "drop":
                del data[at : at + draw(st.integers(1, 40))]
            case "insert":
                data[at:at] = draw(
                    st.binary(max_size=8) | st.sampled_from([b"[", b"{", b"null", b"-1", b"1e999", b'"'])
                )
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
            case "cut":
                del data[max(at, len(data) - 60) :]
    return bytes(data)


lengths = (
    st.just(str(len(HEAD)))
    | st.integers(-1, len(HEAD) + len(BINARY) + 1).map(str)
    | st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12)
)


@settings(max_examples=150, deadline=None)
@given(head=st.just(HEAD) | damaged(HEAD), binary=st.just(BINARY) | damaged(BINARY), length=st.none() | lengths)
def test_damaged_bodies_and_lengths_are_the_senders_fault(
    client: httpx2.Client, head: bytes, binary: bytes, length: str | None
) -> None:
    headers = {} if length is None else {LENGTH_HEADER: length}
    answer = client.post("/v2/models/tiny/infer", content=head + binary, headers=headers)
    assert answer.status_code in OK, answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]


@settings(max_examples=150, deadline=None)
@given(head=damaged(HEAD))
def test_damaged_json_of_the_right_length_is_the_senders_fault(client: httpx2.Client, head: bytes) -> None:
    headers = {LENGTH_HEADER: str(len(head))}
    answer = client.post("/v2/models/tiny/infer", content=head + BINARY, headers=headers)
    assert answer.status_code in OK, answer.text


@settings(max_examples=150, deadline=None)
@given(message=damaged(MESSAGE[:200]) | damaged(MESSAGE))
def test_damaged_messages_are_the_senders_fault(addresses: tuple[str, str], message: bytes) -> None:
    assert status_of(addresses[1], message) in OK_GRPC | {None}


def test_the_requests_that_are_damaged_are_whole_themselves(addresses: tuple[str, str], client: httpx2.Client) -> None:
    headers = {LENGTH_HEADER: str(len(HEAD))}
    assert client.post("/v2/models/tiny/infer", content=HEAD + BINARY, headers=headers).status_code == 200
    assert status_of(addresses[1], MESSAGE) is None


def status_of(address: str, message: bytes) -> grpc.StatusCode | None:
    """Of an answer over gRPC; None where it went well."""
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            call(message, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return None

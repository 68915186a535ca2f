"""Each error code of the HTTP surface, with the sentence that its sender reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from calibox_server.errors import PROBLEMS
from calibox_server.openapi import DETECTION_PROBLEMS
from tests.support.bundles import make_tiny_bundle
from tests.support.gated_engine import PATIENCE_S
from tests.support.live_server import live_server
from tests.support.pictures import encoded, huge_png, picture

JPEG = encoded(picture(), "JPEG")
RAW = {"Content-Type": "image/jpeg"}
MAX_BYTES = 100_000


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    root = tmp_path_factory.mktemp("models")
    make_tiny_bundle(root)
    with (
        live_server(root, max_bytes=MAX_BYTES, max_pixels=20_000, max_images=3) as url,
        httpx2.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def refused(answer: httpx2.Response, status: int, code: str) -> str:
    """Checks the form of a problem document and returns its sentence."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    document = answer.json()
    assert document.keys() == {"type", "title", "status", "code", "detail", "request_id"}
    assert (document["status"], document["code"]) == (status, code)
    assert document["type"] == f"urn:calibox:problem:{code}"
    assert document["request_id"] == answer.headers["X-Request-Id"]
    return str(document["detail"])


def send(client: httpx2.Client, data: bytes = JPEG, kind: str = "image/jpeg", **parameters: Any) -> httpx2.Response:
    return client.post("/v1/detect", content=data, headers={"Content-Type": kind}, params=parameters)


def test_malformed(client: httpx2.Client) -> None:
    assert "the body is empty" in refused(send(client, b""), 400, "malformed")
    assert "not JSON" in refused(send(client, b"{", "application/json"), 400, "malformed")
    assert "image 0 is not valid base64" in refused(
        send(client, b'{"image": "?"}', "application/json"), 400, "malformed"
    )
    assert "cannot be read" in refused(send(client, b"x", "multipart/form-data; boundary=y"), 400, "malformed")


def test_too_many_images_are_malformed(client: httpx2.Client) -> None:
    files = [("f", (f"{i}.jpg", JPEG)) for i in range(4)]
    assert "Maximum number of files is 3" in refused(client.post("/v1/detect", files=files), 400, "malformed")


def test_unknown_model(client: httpx2.Client) -> None:
    assert refused(send(client, model="cars"), 404, "unknown_model") == "there is no model 'cars'; served are tiny"
    assert "has no version '7'; it has 1" in refused(send(client, version=7), 404, "unknown_model")
    assert "no model 'cars'" in refused(client.get("/v1/models/cars"), 404, "unknown_model")


def test_not_found(client: httpx2.Client) -> None:
    assert "see /docs" in refused(client.get("/v1/detections"), 404, "not_found")
    assert "see /docs" in refused(client.get("/v1/models/a/../../b/c"), 404, "not_found")


def test_method_not_allowed(client: httpx2.Client) -> None:
    answer = client.get("/v1/detect")
    assert "GET /v1/detect" in refused(answer, 405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


def test_too_many_bytes(client: httpx2.Client) -> None:
    announced = refused(send(client, b"x" * (MAX_BYTES + 1)), 413, "too_many_bytes")
    assert announced == "the body is 100001 bytes long; this server reads at most 100000"
    pieces = (b"x" * 1000 for _ in range(101))
    chunked = refused(client.post("/v1/detect", content=pieces, headers=RAW), 413, "too_many_bytes")
    assert "longer than 100000 bytes" in chunked
    files = {"f": ("a.jpg", b"x" * MAX_BYTES)}
    assert "reads at most" in refused(client.post("/v1/detect", files=files), 413, "too_many_bytes")


def test_a_refused_upload_leaves_the_connection_usable(client: httpx2.Client) -> None:
    refused(send(client, b"x" * (20 * MAX_BYTES)), 413, "too_many_bytes")
    assert send(client).status_code == 200


def test_too_many_pixels(client: httpx2.Client) -> None:
    sentence = refused(send(client, huge_png(30_000, 20_000), "image/png"), 413, "too_many_pixels")
    assert sentence == "the image has 30000 x 20000 = 600000000 pixels; this server decodes at most 20000"


def test_unsupported_media_type(client: httpx2.Client) -> None:
    assert "the content type text/plain is not read" in refused(
        send(client, b"x", "text/plain"), 415, "unsupported_media_type"
    )
    assert "not an image that can be read; send one of JPEG" in refused(
        send(client, b"GIF86a" + b"\0" * 50, "image/gif"), 415, "unsupported_media_type"
    )


def test_unreadable_image(client: httpx2.Client) -> None:
    data = bytearray(encoded(picture(width=160, height=120), "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 200] = b"\xff\xd0" * 100
    assert "is damaged" in refused(send(client, bytes(data)), 422, "unreadable_image")


def test_truncated_image(client: httpx2.Client) -> None:
    assert "ends too early" in refused(send(client, JPEG[: len(JPEG) // 2]), 422, "truncated_image")


def test_an_image_among_many_is_named(client: httpx2.Client) -> None:
    files = [("f", ("good.jpg", JPEG)), ("f", ("bad.jpg", JPEG[:-300])), ("f", ("worse.jpg", b"hello"))]
    sentence = refused(client.post("/v1/detect", files=files), 422, "truncated_image")
    assert sentence.startswith("image 1 (bad.jpg) is not read: ")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"score_threshold": "nan"}, "score_threshold must be a number within 0..1, got 'nan'"),
        ({"score_threshold": "-inf"}, "score_threshold must be a number within 0..1, got '-inf'"),
        ({"iou_threshold": "1.5"}, "iou_threshold must be a number within 0..1, got '1.5'"),
        ({"max_detections": "0"}, "max_detections must be a whole number within 1..50, got '0'"),
        ({"timeout_ms": "soon"}, "timeout_ms must be a number within 1..600000, got 'soon'"),
        ({"classes": "bird"}, "classes must be among class-0, class-1, class-2 (or their label ids), got 'bird'"),
        ({"urgency": "high"}, "there is no parameter 'urgency'; known are model, version, fusion"),
        ({"priority": "urgent"}, "priority must be one of high, normal, got 'urgent'"),
    ],
)
def test_invalid_parameter(client: httpx2.Client, parameters: dict[str, str], sentence: str) -> None:
    assert sentence in refused(send(client, **parameters), 422, "invalid_parameter")
    form = client.post("/v1/detect", files={"f": ("a.jpg", JPEG)}, data=parameters)
    assert sentence in refused(form, 422, "invalid_parameter")


def test_invalid_parameter_in_json(client: httpx2.Client) -> None:
    body = json.dumps({"image": "AAAA", "score_threshold": [1, 2]}).encode()
    assert "given 2 times" in refused(send(client, body, "application/json"), 422, "invalid_parameter")


def test_every_code_is_documented_once(client: httpx2.Client) -> None:
    codes = [error.code for error in PROBLEMS]
    assert len(codes) == len(set(codes))
    responses = client.get("/openapi.json").json()["paths"]["/v1/detect"]["post"]["responses"]
    for error in DETECTION_PROBLEMS:
        assert f"`{error.code}`" in responses[str(error.status)]["description"]
    listed = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    assert [error.code for error in PROBLEMS if f"`{error.code}`" not in listed] == []

"""The three forms of a request, and what each malformed one is told."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from starlette.requests import ClientDisconnect, Request

from calibox_server.errors import MalformedRequestError, TooManyBytesError, UnsupportedMediaTypeError
from calibox_server.requests import DetectRequest, read_request

BOUNDARY = "x-boundary-x"
MULTIPART = f"multipart/form-data; boundary={BOUNDARY}"


def read(
    body: bytes,
    content_type: str | None,
    *,
    query: str = "",
    max_bytes: int = 10_000,
    max_images: int = 3,
    chunk: int = 100,
    headers: dict[str, str] | None = None,
    announce: bool = True,
) -> DetectRequest:
    """Reads a body that arrives in pieces of ``chunk`` bytes."""
    sent = {"content-length": str(len(body))} if announce else {}
    sent |= {"content-type": content_type} if content_type is not None else {}
    sent |= headers or {}
    pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
    messages = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)} for i, piece in enumerate(pieces)
    ]
    return run_request(messages, sent, query, max_bytes=max_bytes, max_images=max_images)


def run_request(
    messages: list[dict[str, Any]], headers: dict[str, str], query: str = "", **limits: int
) -> DetectRequest:
    left = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(left)

    async def in_thread(function: Callable[..., DetectRequest], *args: Any) -> DetectRequest:
        return function(*args)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    return asyncio.run(read_request(Request(scope, receive), in_thread=in_thread, **limits))  # type: ignore[arg-type]


def part(name: str, value: bytes, file_name: str | None = None) -> bytes:
    disposition = f'form-data; name="{name}"' + (f'; filename="{file_name}"' if file_name is not None else "")
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + value + b"\r\n"


def multipart(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG", "application/octet-stream", None, "image/jpeg; q=1"])
@pytest.mark.parametrize("chunk", [1, 100, 10_000])
def test_a_raw_body_is_one_image_with_parameters_in_the_query(kind: str | None, chunk: int) -> None:
    body = bytes(range(256)) * 2
    found = read(body, kind, query="fusion=power&alpha=2&classes=a&classes=b&model=", chunk=chunk)
    assert [image.data for image in found.images] == [body]
    assert found.images[0].label == "the image"
    assert found.given == {"fusion": ["power"], "alpha": ["2"], "classes": ["a", "b"], "model": [""]}


def test_a_multipart_body_holds_files_and_fields() -> None:
    body = multipart(
        part("file", b"first", "a.jpg"),
        part("fusion", b"product"),
        part("other", b"second\r\n--", "b.png"),
        part("x", b"third", ""),
    )
    found = read(body, MULTIPART, query="model=m")
    assert [(image.data, image.label) for image in found.images] == [
        (b"first", "image 0 (a.jpg)"),
        (b"second\r\n--", "image 1 (b.png)"),
        (b"third", "image 2"),
    ]
    assert found.given == {"model": ["m"], "fusion": ["product"]}


def test_a_json_body_holds_one_image_or_many() -> None:
    one = read(orjson.dumps({"image": b64(b"first"), "alpha": 0.5, "classes": ["a", 3]}), "application/json")
    assert [image.data for image in one.images] == [b"first"]
    assert one.given == {"alpha": [0.5], "classes": ["a", 3]}
    many = read(orjson.dumps({"images": [b64(b"first"), b64(b"second")]}), "application/json; charset=utf-8")
    assert [(image.data, image.label) for image in many.images] == [(b"first", "image 0"), (b"second", "image 1")]


def test_query_and_body_are_joined_so_that_a_contradiction_is_seen() -> None:
    found = read(orjson.dumps({"image": b64(b"x"), "alpha": 0.5}), "application/json", query="alpha=1")
    assert found.given == {"alpha": ["1", 0.5]}


@pytest.mark.parametrize(
    ("body", "kind", "sentence"),
    [
        (b"", "image/jpeg", "the body is empty; send the bytes of an image"),
        (b"", "application/json", "the body is not JSON"),
        (b'{"image": ', "application/json", "the body is not JSON"),
        (b'{"image": "AAAA", "alpha": NaN}', "application/json", "the body is not JSON"),
        (b"[]", "application/json", "the JSON body must be an object"),
        (b"{}", "application/json", 'needs either "image"'),
        (b'{"image": "AAAA", "images": []}', "application/json", 'needs either "image"'),
        (b'{"images": []}', "application/json", '"images" is empty'),
        (b'{"images": "AAAA"}', "application/json", '"images" must be a list'),
        (b'{"images": ["AAAA", 3]}', "application/json", "image 1 must be a base64 string, got int"),
        (b'{"images": ["AAAA", "AA*A"]}', "application/json", "image 1 is not valid base64"),
        (b'{"image": "AAA"}', "application/json", "image 0 is not valid base64"),
        (b'{"image": "\xc3\xa9"}', "application/json", "image 0 is not valid base64"),
        (b'{"image": ""}', "application/json", "image 0 is empty"),
        (b'{"images": ["AA==", "AA==", "AA==", "AA=="]}', "application/json", "4 images in one request.* at most 3"),
        (b"", MULTIPART, "needs at least one file|cannot be read"),
        (b"no boundary at all", MULTIPART, "cannot be read"),
        (b"x", "multipart/form-data", "Missing boundary"),
        (multipart(part("alpha", b"1")), MULTIPART, "needs at least one file"),
        (multipart(part("f", b"a", "a.jpg"), part("f", b"", "b.jpg")), MULTIPART, r"image 1 \(b.jpg\) is empty"),
        (multipart(*[part("f", b"a", "a.jpg")] * 4), MULTIPART, "Too many files. Maximum number of files is 3"),
        (multipart(*[part("a", b"a")] * 65), MULTIPART, "Too many fields"),
        (multipart(part("a", b"a" * 70_000)), MULTIPART, "Part exceeded maximum size"),
        (b"--" + BOUNDARY.encode() + b"\r\n\r\nx\r\n", MULTIPART, "cannot be read"),
        # Cut inside a file, which must be closed all the same: a warning would fail the test.
        (part("f", b"abc", "a.jpg")[:-3], MULTIPART, "needs at least one file"),
    ],
)
def test_a_malformed_body_is_told_what_is_wrong(body: bytes, kind: str, sentence: str) -> None:
    with pytest.raises(MalformedRequestError, match=sentence):
        read(body, kind, max_bytes=100_000)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "video/mp4"])
def test_another_content_type_is_refused_with_what_is_read(kind: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match=f"the content type {kind} is not read; send .*image/jpeg"):
        read(b"x", kind)


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="Content-Encoding gzip"):
        read(b"x", "image/jpeg", headers={"content-encoding": "gzip"})


def test_a_body_that_announces_too_much_is_refused_before_it_is_read() -> None:
    with pytest.raises(TooManyBytesError, match="the body is 501 bytes long; this server reads at most 500"):
        run_request([], {"content-type": "image/jpeg", "content-length": "501"}, max_bytes=500, max_images=1)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", MULTIPART])
def test_reading_stops_as_soon_as_a_body_is_too_long(kind: str) -> None:
    head = part("f", b"", "a.jpg")[:-2] if kind == MULTIPART else b""
    endless = [{"type": "http.request", "body": head, "more_body": True}]
    endless += [{"type": "http.request", "body": b"x" * 100, "more_body": True}] * 6
    with pytest.raises(TooManyBytesError, match="longer than 500 bytes"):
        run_request(endless, {"content-type": kind}, max_bytes=500, max_images=1)


def test_a_body_of_exactly_the_limit_is_read() -> None:
    assert len(read(b"x" * 500, "image/jpeg", max_bytes=500).images[0].data) == 500
    assert len(read(b"x" * 500, "image/jpeg", max_bytes=500, announce=False).images[0].data) == 500


@pytest.mark.parametrize("kind", ["image/jpeg", "application/json", MULTIPART])
def test_a_client_that_leaves_while_it_sends_is_noticed(kind: str) -> None:
    start = b"--" + BOUNDARY.encode() if kind == MULTIPART else b"x"
    messages = [{"type": "http.request", "body": start, "more_body": True}, {"type": "http.disconnect"}]
    with pytest.raises(ClientDisconnect):
        run_request(messages, {"content-type": kind}, max_bytes=500, max_images=1)

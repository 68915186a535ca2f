"""The three forms of a detection request (raw body, multipart, JSON with base64) to images and raw parameters."""

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.datastructures import QueryParams, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from calibox_server.connections import took_too_long
from calibox_server.errors import MalformedRequestError, TooManyBytesError, UnsupportedMediaTypeError
from calibox_server.json_limits import parse_json
from calibox_server.parameters import Given

MAX_FIELD_BYTES = 64 * 1024  # of one form field that is no file: the longest parameter is a list of class names
# What a JSON body brings its images as, and what it is; those of many are lists.
_SOURCES = {"image": "base64", "images": "base64 strings", "url": "an address", "urls": "addresses"}
_LISTS = frozenset({"images", "urls"})
MAX_FIELDS = 64  # several times the number of parameters


@dataclass(frozen=True, slots=True)
class ImagePart:
    """The bytes of one image as they were sent."""

    data: bytes
    label: str  # how a sentence calls it: "the image", "image 2 (cat.jpg)"


@dataclass(frozen=True, slots=True)
class DetectRequest:
    """A request whose body was read whole and taken apart."""

    images: list[ImagePart]
    given: Given
    urls: Sequence[tuple[int, str]] = ()  # places in `images` that have no bytes yet, and where those are to be fetched

    @property
    def cost(self) -> int:
        """What it counts as among images per second; fetching one counts as much as looking at it."""
        return len(self.images) + len(self.urls)


def kind_of(content_type: str) -> str:
    """The media type that a header names, without its parameters, in lower case; empty where there is none."""
    return content_type.partition(";")[0].strip().lower()


@lru_cache(maxsize=64)  # callers name few
def is_image(content_type: str) -> bool:
    """Whether a body with this header `Content-Type` is an image as it is."""
    kind = kind_of(content_type)
    return kind.startswith("image/") or kind in ("", "application/octet-stream")


def image_request(body: bytes, given: Given) -> DetectRequest:
    """The request whose body is an image.

    Raises:
        MalformedRequestError: it is empty.
    """
    if not body:
        raise MalformedRequestError("the body is empty; send the bytes of an image")
    return DetectRequest([ImagePart(body, "the image")], given)


def given_in(query: bytes) -> dict[str, list[Any]]:
    """The parameters of an address."""
    given: dict[str, list[Any]] = {}
    for name, value in QueryParams(query).multi_items():
        given.setdefault(name, []).append(value)
    return given


def check_announced(length: str, max_bytes: int) -> None:
    """Raises TooManyBytesError where the header `Content-Length` announces more than is read."""
    if length.isdecimal() and int(length) > max_bytes:
        raise TooManyBytesError(f"the body is {length} bytes long; this server reads at most {max_bytes}")


def check_read(size: int, max_bytes: int) -> None:
    """Raises TooManyBytesError where so many bytes that came are more than is read."""
    if size > max_bytes:
        raise TooManyBytesError(f"the body is longer than {max_bytes} bytes, the most that this server reads")


async def read_request(
    request: Request, *, max_bytes: int, max_images: int, in_thread: Callable[..., Awaitable[DetectRequest]]
) -> DetectRequest:
    """Reads a body in one of the three forms.

    Args:
        request: its body was not touched yet.
        max_bytes: longest body; reading stops as soon as it is exceeded.
        max_images: most images.
        in_thread: calls a function with arguments outside of the event loop.

    Raises:
        MalformedRequestError: empty, or not what its content type announces, or too many images.
        TooManyBytesError: longer than ``max_bytes``.
        UnsupportedMediaTypeError: another content type, or a compressed body.
        ClientDisconnect: the client left.
    """
    kind = kind_of(request.headers.get("content-type", ""))
    _refuse_compressed(request)
    query = request.scope["query_string"]
    given = given_in(query) if query else {}
    body = _Body(request, max_bytes)
    if kind == "multipart/form-data":
        async with aclosing(body.stream()) as stream:
            return await _read_multipart(request, stream, given, max_images)
    if kind == "application/json":
        return await in_thread(read_json, await body.whole(), given, max_images)
    if is_image(kind):
        return image_request(await body.whole(), given)
    raise UnsupportedMediaTypeError(
        f"the content type {kind[:60]} is not read; send the image itself with Content-Type: image/jpeg (or "
        "application/octet-stream), a multipart/form-data with files, or application/json with base64"
    )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """A body of any form, whole.

    Raises:
        TooManyBytesError: longer than ``max_bytes``; reading stops as soon as it is exceeded.
        UnsupportedMediaTypeError: compressed.
        ClientDisconnect: the client left.
    """
    _refuse_compressed(request)
    return await _Body(request, max_bytes).whole()


def _refuse_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(f"bodies with Content-Encoding {encoding[:40]} are not read; send it plain")


class _Body:
    """A body as it comes; reading stops as soon as it is longer than allowed.

    Raises:
        TooManyBytesError: announced to be longer; later, when it is.
        ClientDisconnect: the client left.
    """

    def __init__(self, request: Request, max_bytes: int) -> None:
        check_announced(request.headers.get("content-length", ""), max_bytes)
        self._request = request
        self._max_bytes = max_bytes
        self._read = 0
        self._ended = False

    async def whole(self) -> bytes:
        """All of it."""
        chunk = await self._next()
        if self._ended:
            return chunk
        chunks = [chunk]
        while not self._ended:
            chunks.append(await self._next())
        return b"".join(chunks)

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Piece by piece."""
        while not self._ended:
            yield await self._next()

    async def _next(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise took_too_long(self._request.scope) or ClientDisconnect
        chunk: bytes = message.get("body", b"")
        self._ended = not message.get("more_body", False)
        self._read += len(chunk)
        check_read(self._read, self._max_bytes)
        return chunk


class _InMemoryParser(MultiPartParser):
    # The body's limit already bounds memory; the parser would write larger files to disk from another thread.
    spool_max_size = 2**62

    def close(self) -> None:
        """Closes every file, those of parts that never ended too."""
        for file in self._files_to_close_on_error:
            file.close()


async def _read_multipart(
    request: Request, body: AsyncGenerator[bytes, None], given: dict[str, list[Any]], max_images: int
) -> DetectRequest:
    parser = _InMemoryParser(
        request.headers, body, max_files=max_images, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedRequestError(f"the multipart body cannot be read: {error.message}") from error
    images: list[ImagePart] = []
    urls: list[tuple[int, str]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            file_name = f" ({value.filename[:80]})" if value.filename else ""
            images.append(ImagePart(value.file.read(), f"image {len(images)}{file_name}"))
        elif name == "url":
            urls.append((len(images), value))
            images.append(_without_bytes(len(images)))
        else:
            given.setdefault(name, []).append(value)
    parser.close()
    _check_count(len(images), max_images)
    if_none = "a multipart body needs at least one file, such as curl -F file=@x.jpg"
    return _checked(DetectRequest(images, given, urls), if_none)


def read_json(body: bytes, given: dict[str, list[Any]], max_images: int) -> DetectRequest:
    """``{"image": base64}``, ``{"images": [...]}``, or addresses in ``url`` or ``urls``; others are parameters.

    Raises:
        MalformedRequestError: not such a document; the text says where.
        JsonTooComplexError: as `parse_json` says.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise MalformedRequestError('the JSON body must be an object with "image" or "images"')
    named = [name for name in _SOURCES if name in document]
    if len(named) != 1:
        raise MalformedRequestError(
            'the JSON body needs either "image" (base64), "images" (a list of base64), "url" or "urls", and one of '
            f"them only; it has {' and '.join(named) or 'none'}"
        )
    source = document.pop(named[0])
    sent = source if named[0] in _LISTS else [source]
    if not isinstance(sent, list):
        raise MalformedRequestError(f'"{named[0]}" must be a list of {_SOURCES[named[0]]}')
    _check_count(len(sent), max_images)
    for name, value in document.items():
        given.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    if_none = f'"{named[0]}" is empty; send at least one image'
    if "url" in named[0]:
        urls = [(i, _text(url, i, "an address")) for i, url in enumerate(sent)]
        return _checked(DetectRequest([_without_bytes(i) for i, _ in urls], given, urls), if_none)
    images = [ImagePart(_from_base64(text, i), f"image {i}") for i, text in enumerate(sent)]
    return _checked(DetectRequest(images, given), if_none)


def _check_count(images: int, max_images: int) -> None:
    if images > max_images:
        raise MalformedRequestError(f"{images} images in one request; this server takes at most {max_images}")


def _without_bytes(place: int) -> ImagePart:
    return ImagePart(b"", f"image {place}")


def _from_base64(text: object, index: int) -> bytes:
    try:
        return base64.b64decode(_text(text, index, "a base64 string"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequestError(f"image {index} is not valid base64: {error}") from error


def _text(value: object, index: int, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedRequestError(f"image {index} must be {what}, got {type(value).__name__}")
    return value


def _checked(asked: DetectRequest, if_none: str) -> DetectRequest:
    if not asked.images:
        raise MalformedRequestError(if_none)
    to_fetch = {place for place, _ in asked.urls}
    for place, image in enumerate(asked.images):
        if not image.data and place not in to_fetch:
            raise MalformedRequestError(f"{image.label} is empty")
    return asked

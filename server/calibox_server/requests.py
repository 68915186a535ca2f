"""The three forms of a detection request (raw body, multipart, JSON with base64) to images and raw parameters."""

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from calibox_server.connections import took_too_long
from calibox_server.errors import MalformedRequestError, TooManyBytesError, UnsupportedMediaTypeError
from calibox_server.json_limits import parse_json
from calibox_server.parameters import Given

MAX_FIELD_BYTES = 64 * 1024  # of one form field that is no file: the longest parameter is a list of class names
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
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    _refuse_compressed(request)
    given: dict[str, list[Any]] = {}
    for name, value in request.query_params.multi_items():
        given.setdefault(name, []).append(value)
    async with aclosing(_limited(request, max_bytes)) as body:
        if kind == "multipart/form-data":
            return await _read_multipart(request, body, given, max_images)
        if kind == "application/json":
            return await in_thread(read_json, await _join(body), given, max_images)
        if kind.startswith("image/") or kind in ("", "application/octet-stream"):
            data = await _join(body)
            if not data:
                raise MalformedRequestError("the body is empty; send the bytes of an image")
            return DetectRequest([ImagePart(data, "the image")], given)
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
    async with aclosing(_limited(request, max_bytes)) as body:
        return await _join(body)


def _refuse_compressed(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaTypeError(f"bodies with Content-Encoding {encoding[:40]} are not read; send it plain")


async def _limited(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise TooManyBytesError(f"the body is {announced} bytes long; this server reads at most {max_bytes}")
    read = 0
    try:
        async with aclosing(request.stream()) as stream:
            async for chunk in stream:
                read += len(chunk)
                if read > max_bytes:
                    raise TooManyBytesError(
                        f"the body is longer than {max_bytes} bytes, the most that this server reads"
                    )
                yield chunk
    except ClientDisconnect:
        raise took_too_long(request.scope) or ClientDisconnect from None


async def _join(body: AsyncGenerator[bytes, None]) -> bytes:
    chunks = [chunk async for chunk in body if chunk]
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _InMemoryParser(MultiPartParser):
    # The body's limit already bounds memory; the parser would write larger files to disk from another thread.
    spool_max_size = 2**62


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
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            file_name = f" ({value.filename[:80]})" if value.filename else ""
            images.append(ImagePart(value.file.read(), f"image {len(images)}{file_name}"))
            value.file.close()
        else:
            given.setdefault(name, []).append(value)
    return _checked(images, given, "a multipart body needs at least one file, such as curl -F file=@x.jpg")


def read_json(body: bytes, given: dict[str, list[Any]], max_images: int) -> DetectRequest:
    """``{"image": base64}`` or ``{"images": [base64, ...]}``; every other key is a parameter.

    Raises:
        MalformedRequestError: not such a document; the text says where.
        JsonTooComplexError: as `parse_json` says.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise MalformedRequestError('the JSON body must be an object with "image" or "images"')
    if ("image" in document) == ("images" in document):
        raise MalformedRequestError('the JSON body needs either "image" (base64) or "images" (a list of base64)')
    encoded = document.pop("images") if "images" in document else [document.pop("image")]
    if not isinstance(encoded, list):
        raise MalformedRequestError('"images" must be a list of base64 strings')
    if len(encoded) > max_images:
        raise MalformedRequestError(f"{len(encoded)} images in one request; this server takes at most {max_images}")
    images = [ImagePart(_from_base64(text, i), f"image {i}") for i, text in enumerate(encoded)]
    for name, value in document.items():
        given.setdefault(name, []).extend(value if isinstance(value, list) else [value])
    return _checked(images, given, '"images" is empty; send at least one image')


def _from_base64(text: object, index: int) -> bytes:
    if not isinstance(text, str):
        raise MalformedRequestError(f"image {index} must be a base64 string, got {type(text).__name__}")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequestError(f"image {index} is not valid base64: {error}") from error


def _checked(images: list[ImagePart], given: Given, if_none: str) -> DetectRequest:
    if not images:
        raise MalformedRequestError(if_none)
    for image in images:
        if not image.data:
            raise MalformedRequestError(f"{image.label} is empty")
    return DetectRequest(images, given)

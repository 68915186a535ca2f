"""What callers give as an image, as bytes for the server and as pixels to draw on."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from calibox_client.errors import ImageInputError

# A path, encoded bytes, RGB pixels (uint8 [H, W, 3]) or a Pillow image.
ImageInput: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[Any] | Image.Image

_Image = TypeVar("_Image", bound=ImageInput)
# Images that are sent as one request.
ImageBatch: TypeAlias = list[_Image] | tuple[_Image, ...]

# How pixels travel; files and bytes are sent as they are.
Encoding: TypeAlias = Literal["png", "jpeg", "bmp"]

UNKNOWN_MEDIA_TYPE = "application/octet-stream"

# First bytes of the formats that the server reads; what begins otherwise is sent all the same and judged there.
_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
)
# zlib's fastest: pixels travel once, mostly within one machine or rack, where encoding costs more than bytes.
_PNG_COMPRESSION = 1
# Of JPEG, with colours at half the resolution as in cameras' own files: about a tenth of the same picture's PNG.
_JPEG_QUALITY = 90
_OPTIONS: dict[Encoding, dict[str, Any]] = {
    "png": {"compress_level": _PNG_COMPRESSION},
    "jpeg": {"quality": _JPEG_QUALITY},
    "bmp": {},
}
# What Pillow's readers raise for damaged files.
_DAMAGE = (OSError, ValueError, SyntaxError, TypeError, EOFError)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image file in memory."""

    data: bytes
    media_type: str
    name: str  # of the file it came from, or one made up; servers use it in messages only


def as_batch(images: ImageInput | ImageBatch[Any]) -> tuple[ImageBatch[Any], bool]:
    """The images of a request, and whether they were given as a list."""
    return (images, True) if isinstance(images, list | tuple) else ([images], False)


def encode_images(images: ImageBatch[Any], encoding: Encoding = "png") -> list[EncodedImage]:
    """The bytes of each.

    Raises:
        ImageInputError: as `encode_image`.
    """
    return [encode_image(image, encoding) for image in images]


def encode_image(image: ImageInput, encoding: Encoding = "png") -> EncodedImage:
    """The bytes to send. Files and bytes go as they are; pixels become a PNG, without loss, unless told otherwise.

    Args:
        image: a path, encoded bytes, an RGB array uint8 ``[H, W, 3]``, or a Pillow image (EXIF rotation is applied).
        encoding: of pixels.

    Raises:
        ImageInputError: the file cannot be read, or the value is none of these.
    """
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        data = _read(path)
        return EncodedImage(data, media_type_of(data), path.name)
    if isinstance(image, bytes | bytearray | memoryview):
        data = bytes(image)
        return EncodedImage(data, media_type_of(data), "image")
    stream = io.BytesIO()
    open_upright(image).save(stream, encoding, **_OPTIONS[encoding])
    return EncodedImage(stream.getvalue(), f"image/{encoding}", f"image.{encoding}")


def check_encoding(encoding: Encoding) -> Encoding:
    """How pixels travel.

    Raises:
        ValueError: it is none of the three.
    """
    if encoding not in _OPTIONS:
        raise ValueError(f"encoding must be one of {', '.join(_OPTIONS)}, got {encoding!r}")
    return encoding


def media_type_of(data: bytes) -> str:
    """The media type that the first bytes tell."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), UNKNOWN_MEDIA_TYPE)


def open_upright(image: ImageInput) -> Image.Image:
    """The image as a new RGB Pillow image, turned as its EXIF orientation asks.

    Raises:
        ImageInputError: it cannot be read, or the value is nothing that `encode_image` takes.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(_checked_pixels(image))
    if isinstance(image, Image.Image):
        return _upright_rgb(image)
    if isinstance(image, str | os.PathLike):
        return _decode(_read(Path(image)), str(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return _decode(bytes(image), "the bytes")
    raise ImageInputError(
        f"{type(image).__name__} is no image: give a path, encoded bytes, a numpy array uint8 [H, W, 3] in RGB, "
        "or a Pillow image"
    )


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageInputError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageInputError(f"{path} is an empty file")
    return data


def _decode(data: bytes, what: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data))
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        raise ImageInputError(f"{what} cannot be read as an image: {error}") from error
    with image:
        return _upright_rgb(image)


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # the high byte, as the server reads such files; Pillow would clip to white
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image.convert("RGB")
    except _DAMAGE as error:
        raise ImageInputError(f"the image's pixels cannot be read: {error}") from error


def _checked_pixels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ImageInputError(
            f"an image array must be uint8 [H, W, 3] in RGB order, got {pixels.dtype} {list(pixels.shape)}"
        )
    return np.ascontiguousarray(pixels)

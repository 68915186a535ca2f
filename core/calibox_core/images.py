"""Image bytes to upright RGB pixels: one decoder for server, training's evaluation and verification.

Grey, palettes, CMYK and 16 bits (of which the upper eight count) become 8-bit RGB; of an animation the first frame is
taken. What is transparent is laid over the grey of the letterbox: the colour that a pixel has beneath its transparency
is arbitrary, and that grey is what networks have learnt to see nothing in.
"""

import io
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from calibox_core.errors import TruncatedImageError, UnsupportedImageError
from calibox_core.jpeg import jpeg_size
from calibox_core.letterbox import PAD_VALUE

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
SIGNATURE_BYTES = 12  # that tell a format; WebP's are the longest
_ORIENTATION = 0x0112  # EXIF tag

_DEEP_MODES = frozenset({"I", "F"})  # Pillow's, of 32-bit integers and floats; 16 bits have modes of their own
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})

# What Pillow raises for bytes that its readers cannot follow. The last: a GIF's frame may exceed its canvas.
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError, struct.error, AssertionError),
    Image.DecompressionBombError,
)
# Pillow opens no WebP of more pixels, for it makes room for them at once.
_MOST_OF_WEBP = 2 * (Image.MAX_IMAGE_PIXELS or 2**62)

# Pillow's readers by the first bytes. They are called directly: Image.open refuses what is larger than its own limit
# (the caller's pixel limit is the judge of that) and reports a header cut short as "no image".
_READERS: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes say, before any pixel is decoded."""

    format: str
    width: int  # before `orientation` is undone
    height: int
    orientation: int  # EXIF, 1..8; 1 for TIFF, whose readers undo it themselves
    alpha: bool = False  # whether pixels may be transparent

    @property
    def pixels(self) -> int:
        """Number of pixels that decoding would make."""
        return self.width * self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the pixels that `decode_image` returns."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: bytes) -> ImageHeader:
    """Format, size and orientation, without decoding a pixel and whatever the size.

    Raises:
        UnsupportedImageError: the bytes are no image of a known format.
        TruncatedImageError: they begin like one, but the header is damaged or cut short.
    """
    if (usual := jpeg_size(data)) is not None:
        return ImageHeader("JPEG", *usual, orientation=1)
    if _is_webp(data) and (size := _webp_size(data))[0] * size[1] > _MOST_OF_WEBP:
        return ImageHeader("WEBP", *size, orientation=1)
    with _damage_as_ours(), _without_warnings(), _reader_of(data)(io.BytesIO(data)) as image:
        if image.mode in _DEEP_MODES:
            raise UnsupportedImageError(
                f"the {image.format} has samples of 32 bits, whose black and white nobody knows; send it with 8 or 16"
            )
        return ImageHeader(str(image.format), image.width, image.height, _orientation(image), _has_alpha(image))


def begins_like_an_image(data: bytes) -> bool:
    """Whether the first bytes, `SIGNATURE_BYTES` of them or more, are those of a known format."""
    try:
        _reader_of(data)
    except UnsupportedImageError:
        return False
    return True


def decode_image(data: bytes, header: ImageHeader | None = None) -> NDArray[np.uint8]:
    """RGB pixels, uint8 ``[h, w, 3]``, turned upright as EXIF asks.

    Args:
        data: an encoded image; JPEG takes the fast path.
        header: what `read_header` said, when already known.

    Raises:
        UnsupportedImageError: not an image.
        TruncatedImageError: the pixels end too early or are damaged.
    """
    header = header or read_header(data)
    if header.format == "JPEG":
        pixels = _decode_jpeg(data)
    elif header.alpha:
        pixels = _decode_transparent(data)
    else:
        # OpenCV reads a GIF to its end; a few bytes may hold thousands of frames.
        pixels = _decode_pillow(data) if header.format == "GIF" else _decode_other(data, header)
    return np.ascontiguousarray(upright(pixels, header.orientation))


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undoes an EXIF orientation (1..8) as a view."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _decode_jpeg(data: bytes) -> NDArray[np.uint8]:
    import simplejpeg

    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        if "unsupported colorspace" in str(error).lower() or "cmyk" in str(error).lower():
            return _decode_pillow(data)  # CMYK and YCCK, which libjpeg-turbo does not turn into RGB
        raise TruncatedImageError(f"the JPEG is damaged or ends too early: {error}") from error
    return pixels


def _decode_other(data: bytes, header: ImageHeader) -> NDArray[np.uint8]:
    import cv2

    if header.format == "PNG" and not _chunks_fit(data):
        raise TruncatedImageError("the PNG image is damaged or ends too early")
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise TruncatedImageError(f"the {header.format} image is damaged or ends too early")
    return np.asarray(pixels, np.uint8)


def _chunks_fit(data: bytes) -> bool:
    """Whether no chunk of a PNG is longer than what is there: OpenCV makes room first, up to 2 GB, and then reads."""
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return at <= len(data)


def _decode_pillow(data: bytes) -> NDArray[np.uint8]:
    with _damage_as_ours():
        with _without_warnings():
            image = _reader_of(data)(io.BytesIO(data))
        with image:
            return np.asarray(image.convert("RGB"))


def _decode_transparent(data: bytes) -> NDArray[np.uint8]:
    """Over the letterbox's grey."""
    with _damage_as_ours():
        with _without_warnings():
            image = _reader_of(data)(io.BytesIO(data))
        with image:
            above = image.convert("RGBA")
    pixels = Image.new("RGB", above.size, (PAD_VALUE,) * 3)
    pixels.paste(above, mask=above)
    return np.asarray(pixels)


@contextmanager
def _damage_as_ours() -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise TruncatedImageError(f"the image is damaged or ends too early: {error}") from error


_warning_filters = threading.Lock()  # they belong to the whole process: threads that swap them undo one another


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences Pillow about damaged metadata: nobody who sends an image sees a warning."""
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reader_of(data: bytes) -> type[ImageFile.ImageFile]:
    if _is_webp(data):
        return WebPImagePlugin.WebPImageFile
    for signature, reader in _READERS:
        if data.startswith(signature):
            return reader
    raise UnsupportedImageError(
        f"the {len(data)} bytes are not an image that can be read; send one of {', '.join(FORMATS)}"
    )


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as the first chunk says (RFC 9649, sections 2.5 to 2.7); zeros where that ends too early."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _has_alpha(image: ImageFile.ImageFile) -> bool:
    # The fourth channel of a BMP is mostly unused, and then zero.
    return image.format != "BMP" and (image.mode in _ALPHA_MODES or "transparency" in image.info)


def _orientation(image: ImageFile.ImageFile) -> int:
    """The orientation left to undo: EXIF's, 1 where it is absent or unreadable, as browsers do."""
    if image.format == "TIFF":
        return 1  # Pillow's size and OpenCV's pixels of a TIFF are upright already
    try:
        # Not the reader's own method: PNG's decodes all pixels to look for EXIF behind them.
        value = Image.Image.getexif(image).get(_ORIENTATION)
    except _DAMAGE:
        return 1
    return int(value) if value is not None and value in range(1, 9) else 1

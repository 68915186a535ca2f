"""Image bytes to upright RGB pixels: one decoder for server, training's evaluation and verification."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from calibox_core.errors import TruncatedImageError, UnsupportedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the first bytes say, before any pixel is decoded."""

    format: str
    width: int  # as stored, before the EXIF rotation
    height: int
    orientation: int  # EXIF, 1..8

    @property
    def pixels(self) -> int:
        """Number of pixels that decoding would make."""
        return self.width * self.height


def read_header(data: bytes) -> ImageHeader:
    """Format and size, without decoding.

    Raises:
        UnsupportedImageError: the bytes are no image of a known format.
        TruncatedImageError: they begin like one, but the header is cut short.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of decompression bombs from the header; the caller's pixel limit is the judge of that.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                orientation = int(image.getexif().get(_ORIENTATION, 1) or 1)
                header = ImageHeader(str(image.format), image.width, image.height, orientation)
    except Image.DecompressionBombError as error:
        raise UnsupportedImageError(f"the image is larger than any that is read: {error}") from error
    except UnidentifiedImageError as error:
        raise UnsupportedImageError(
            f"the {len(data)} bytes are not an image that can be read; send one of {', '.join(FORMATS)}"
        ) from error
    except (OSError, ValueError, SyntaxError, TypeError, EOFError) as error:
        raise TruncatedImageError(f"the image's header is damaged or cut short: {error}") from error
    return header if 1 <= header.orientation <= 8 else ImageHeader(header.format, header.width, header.height, 1)


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
    pixels = _decode_jpeg(data) if header.format == "JPEG" else _decode_other(data, header)
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

    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape[:2] != (header.height, header.width):
        raise TruncatedImageError(f"the {header.format} image is damaged or ends too early")
    return np.asarray(pixels, np.uint8)


def _decode_pillow(data: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise TruncatedImageError(f"the image is damaged or ends too early: {error}") from error

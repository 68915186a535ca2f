"""Image bytes to a letterboxed slot, with limits told from the header before any pixel is decoded."""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from calibox_core.errors import ImageError, UnsupportedImageError
from calibox_core.images import ImageHeader, decode_image, read_header
from calibox_core.letterbox import Letterbox, letterbox_into
from calibox_server.background import in_pool
from calibox_server.engine_runner import clock
from calibox_server.errors import (
    CutImageError,
    DeadlineError,
    ServiceError,
    TooManyPixelsError,
    UnreadableImageError,
    UnsupportedMediaTypeError,
)
from calibox_server.requests import ImagePart
from calibox_server.slots import Slot, Slots


def decode_into(slot: NDArray[np.uint8], part: ImagePart, *, max_pixels: int, pad_value: int) -> Letterbox:
    """Decodes an image upright and letterboxes it into ``slot``, uint8 ``[H, W, 3]`` RGB.

    Returns: the geometry that maps boxes back to the upright image.

    Raises:
        UnsupportedMediaTypeError: not an image of a known format.
        TooManyPixelsError: the header announces more than ``max_pixels``.
        CutImageError, UnreadableImageError: the pixels end too early, or are damaged.
    """
    return letterbox_into(slot, decode(part, max_pixels), pad_value=pad_value)


class Placer:
    """Decodes images into free slots.

    Args:
        slots: where it takes them, and gives back those of images that cannot be read.
        pad_value, max_pixels: as `decode_into` has them.
    """

    def __init__(self, slots: Slots, *, pad_value: int, max_pixels: int) -> None:
        self._slots = slots
        self._pad_value = pad_value
        self._max_pixels = max_pixels

    def __call__(self, image: ImagePart, *, deadline: float) -> tuple[Slot, Letterbox]:
        """A slot with the image in it, and the geometry that maps boxes back; any thread may ask.

        Raises:
            DeadlineError: ``deadline`` passed, on `clock`.
            ServiceError: as `decode_into`.
        """
        if clock() >= deadline:
            raise DeadlineError("the deadline passed before the image was decoded; allow more with timeout_ms")
        slot = self._slots.take()
        try:
            return slot, decode_into(slot, image, max_pixels=self._max_pixels, pad_value=self._pad_value)
        except BaseException:
            self._slots.give(slot)
            raise

    async def all(
        self, images: Sequence[ImagePart], decoders: Executor, *, deadline: float
    ) -> list[tuple[Slot, Letterbox]]:
        """Every image, by threads; the first error of an image gives all slots back."""
        return await in_pool(
            decoders, partial(self, deadline=deadline), images, undo=lambda placed: self._slots.give(placed[0])
        )


def decode(part: ImagePart, max_pixels: int) -> NDArray[np.uint8]:
    """Upright RGB pixels, uint8 ``[h, w, 3]``.

    Raises:
        ServiceError: as `decode_into`.
    """
    try:
        return decode_image(part.data, _header(part, max_pixels))
    except ImageError as error:
        raise _told_to_the_sender(error, part) from error


def checked_header(part: ImagePart, max_pixels: int) -> ImageHeader:
    """What the first bytes of an image say, before any pixel is decoded.

    Raises:
        ServiceError: as `decode_into`, but for what only the pixels show.
    """
    try:
        return _header(part, max_pixels)
    except ImageError as error:
        raise _told_to_the_sender(error, part) from error


def _header(part: ImagePart, max_pixels: int) -> ImageHeader:
    header = read_header(part.data)
    if header.pixels > max_pixels:
        raise TooManyPixelsError(
            f"{part.label} has {header.width} x {header.height} = {header.pixels} pixels; "
            f"this server decodes at most {max_pixels}"
        )
    return header


def _told_to_the_sender(error: ImageError, part: ImagePart) -> ServiceError:
    sentence = f"{part.label} is not read: {error}"
    if isinstance(error, UnsupportedImageError):
        return UnsupportedMediaTypeError(sentence)
    return (CutImageError if ends_too_early(part.data) else UnreadableImageError)(sentence)


def prepare_decoders() -> None:
    """Sets OpenCV up for a pool of decode threads, and decodes once, so that no request pays for imports."""
    import cv2

    cv2.setNumThreads(1)  # the pool is the parallelism
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # an image's faults are its sender's to know
    pixels = np.zeros((16, 16, 3), np.uint8)  # one JPEG block in each subsampling
    for ending in (".jpg", ".png"):
        data = cv2.imencode(ending, pixels)[1].tobytes()
        decode_into(np.empty((32, 32, 3), np.uint8), ImagePart(data, "the image"), max_pixels=256, pad_value=0)


def ends_too_early(data: bytes) -> bool:
    """Whether an image that failed to decode lacks its end, by the marks that its format ends with."""
    if data.startswith(b"\xff\xd8"):  # JPEG: the marker EOI; some writers pad after it
        return b"\xff\xd9" not in data[-32:]
    if data.startswith(b"\x89PNG"):  # the last chunk is IEND, 12 bytes
        return b"IEND" not in data[-12:]
    if data.startswith(b"RIFF"):  # WebP: length of what follows the first 8 bytes
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    if data.startswith(b"BM"):  # BMP: length of the file
        return len(data) < int.from_bytes(data[2:6], "little")
    if data.startswith(b"GIF8"):  # the trailer is a semicolon; some writers pad after it
        return not data.rstrip(b"\0").endswith(b";")
    return False  # TIFF announces no end

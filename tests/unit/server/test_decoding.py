"""Images that are refused before or while they are decoded, and those that are placed into a slot."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
from calibox_server.decoding import decode_into, ends_too_early
from calibox_server.errors import (
    CutImageError,
    ServiceError,
    TooManyPixelsError,
    UnreadableImageError,
    UnsupportedMediaTypeError,
)
from calibox_server.requests import ImagePart
from tests.support.pictures import encoded, huge_png, picture

KINDS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def decode(data: bytes, *, max_pixels: int = 100_000) -> np.ndarray:
    slot = np.full((96, 128, 3), 7, np.uint8)
    decode_into(slot, ImagePart(data, "image 2 (x.jpg)"), max_pixels=max_pixels, pad_value=114)
    return slot


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_holds_the_letterboxed_image(kind: str) -> None:
    data = encoded(picture(), kind)
    expected = np.zeros((96, 128, 3), np.uint8)
    letterbox_into(expected, decode_image(data))
    assert np.array_equal(decode(data), expected)


@pytest.mark.parametrize("data", [b"hello", b"\0" * 100, b"GIF86a" + b"\0" * 100, b"<html>", b"%PDF-1.7"])
def test_what_is_no_image_is_refused_with_the_formats_that_are_read(data: bytes) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match=r"^image 2 \(x.jpg\) is not read: .*JPEG, PNG"):
        decode(data)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_an_image_that_is_cut_is_refused(kind: str, share: float) -> None:
    data = encoded(picture(), kind)
    expected = UnreadableImageError if kind == "TIFF" else CutImageError  # TIFF has no mark at its end
    with pytest.raises(expected, match=r"^image 2 \(x.jpg\) is not read: the .* is damaged or ends too early"):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_that_is_damaged_inside_is_not_called_cut(kind: str) -> None:
    data = bytearray(encoded(picture(width=400, height=300), kind))
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff\xd0" * 200
    with pytest.raises(UnreadableImageError, match="is damaged"):
        decode(bytes(data), max_pixels=10**6)


def test_too_many_pixels_are_refused_from_the_header_alone() -> None:
    with pytest.raises(
        TooManyPixelsError, match=r"image 2 \(x.jpg\) has 50000 x 40000 = 2000000000 pixels; .* 100000$"
    ):
        decode(huge_png(50_000, 40_000))


def test_the_pixels_of_a_gif_are_told_from_its_header_too() -> None:
    data = bytearray(encoded(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 50_000, 40_000)  # width and height of the screen
    with pytest.raises(TooManyPixelsError, match="has 50000 x 40000 = 2000000000 pixels"):
        decode(bytes(data))


def test_the_limit_itself_is_allowed() -> None:
    data = encoded(picture(width=80, height=60), "JPEG")
    assert decode(data, max_pixels=4800).any()
    with pytest.raises(TooManyPixelsError):
        decode(data, max_pixels=4799)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_whole_image_does_not_end_too_early(kind: str) -> None:
    data = encoded(picture(), kind)
    assert not ends_too_early(data)
    assert ends_too_early(data[:-40])


@given(
    kind=st.sampled_from(KINDS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    kept=st.floats(0.05, 1),
)
def test_whatever_the_bytes_are_the_answer_is_an_image_or_a_sentence(
    kind: str, changes: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(encoded(picture(), kind))
    for place, value in changes:
        data[int(place * place * len(data))] = value  # mostly near the start, where the header is
    refusal = None
    try:
        slot = decode(bytes(data[: int(kept * len(data))]))
    except ServiceError as error:
        refusal = error
    if refusal is None:
        assert slot.shape == (96, 128, 3)
    else:
        assert refusal.status in (413, 415, 422)
        assert str(refusal).startswith("image 2 (x.jpg) ")

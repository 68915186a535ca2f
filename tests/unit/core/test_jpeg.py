"""The header of a JPEG, beside what Pillow makes of it."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from calibox_core.images import decode_image
from calibox_core.jpeg import jpeg_size

WIDTH, HEIGHT = 45, 30


def jpeg(mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, "JPEG", **options)
    return out.getvalue()


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


USUAL: dict[str, Callable[[], bytes]] = {
    "baseline": jpeg,
    "grey": lambda: jpeg("L"),
    "progressive": lambda: jpeg(progressive=True),
    "4:4:4": lambda: jpeg(subsampling=0),
    "comment": lambda: jpeg(comment="a picture"),
    "colour profile": lambda: jpeg(icc_profile=b"\0" * 300),
    "restarts": lambda: jpeg(restart_marker_blocks=2),
    "odd tables": lambda: jpeg(quality=100, optimize=True),
}
OTHERS: dict[str, Callable[[], bytes]] = {
    "for print": lambda: jpeg("CMYK"),
    "turned": lambda: jpeg(exif=with_orientation(6)),
    "XMP": lambda: jpeg(xmp=b"<x tiff:Orientation='6'/>"),
    "no image": lambda: b"no image",
    "nothing": lambda: b"",
    "PNG": lambda: b"\x89PNG\r\n\x1a\n" + bytes(40),
}


@pytest.mark.parametrize("name", sorted(USUAL))
def test_the_size_of_a_usual_jpeg_is_told(name: str) -> None:
    assert jpeg_size(USUAL[name]()) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_whatever_needs_a_library_is_left_to_it(name: str) -> None:
    assert jpeg_size(OTHERS[name]()) is None


def test_a_header_cut_anywhere_is_left_to_a_library() -> None:
    whole = jpeg()
    scan = whole.index(b"\xff\xda")
    header = scan + 2 + int.from_bytes(whole[scan + 2 : scan + 4], "big")
    assert [jpeg_size(whole[:end]) for end in range(header)] == [None] * header
    assert jpeg_size(whole[:header]) == (WIDTH, HEIGHT)


@given(data=st.data(), name=st.sampled_from(sorted(USUAL)))
def test_what_is_told_of_damaged_bytes_is_what_pillow_tells(data: st.DataObject, name: str) -> None:
    damaged = bytearray(USUAL[name]())
    for at in data.draw(st.lists(st.integers(0, 700), min_size=1, max_size=4)):
        damaged[at % len(damaged)] = data.draw(st.integers(0, 255))
    size = jpeg_size(bytes(damaged))
    if size is not None:
        # Pillow looks at the tables too; what it minds there, the decoder minds.
        try:
            with JpegImagePlugin.JpegImageFile(io.BytesIO(damaged)) as image:
                assert image.size == size
                assert image.getexif().get(0x0112) is None
        except (SyntaxError, OSError, ValueError, LookupError):
            pass


@given(st.binary(max_size=60))
def test_any_bytes_behind_the_start_are_survived(rest: bytes) -> None:
    size = jpeg_size(b"\xff\xd8" + rest)
    assert size is None or min(size) > 0


def test_pixels_are_the_same_whoever_read_the_header() -> None:
    plain, noted = jpeg(), jpeg(exif=with_orientation(1))
    assert jpeg_size(noted) is None
    assert np.array_equal(decode_image(plain), decode_image(noted))

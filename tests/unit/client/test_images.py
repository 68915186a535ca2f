"""What callers give as an image."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calibox_client import ImageInputError
from calibox_client.images import encode_image, media_type_of, open_upright

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
_ORIENTATION = 0x0112


def encoded(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def rotated_jpeg() -> bytes:
    """Stored lying down; viewers turn it by 90 degrees."""
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return encoded("JPEG", quality=100, subsampling=0, exif=exif)


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("JPEG", "image/jpeg"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("BMP", "image/bmp"),
        ("TIFF", "image/tiff"),
        ("GIF", "application/octet-stream"),
    ],
)
def test_the_media_type_is_told_by_the_first_bytes(kind: str, media_type: str) -> None:
    assert media_type_of(encoded(kind)) == media_type


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_bytes_go_as_they_are(wrap: Any) -> None:
    data = encoded("WEBP")
    assert encode_image(wrap(data)).data == data


@pytest.mark.parametrize("wrap", [str, Path])
def test_files_go_as_they_are(tmp_path: Path, wrap: Any) -> None:
    path = tmp_path / "blood film.jpg"
    path.write_bytes(rotated_jpeg())
    sent = encode_image(wrap(path))
    assert (sent.data, sent.media_type, sent.name) == (rotated_jpeg(), "image/jpeg", "blood film.jpg")


def test_a_pillow_image_is_sent_upright() -> None:
    with Image.open(io.BytesIO(rotated_jpeg())) as image:
        sent = Image.open(io.BytesIO(encode_image(image).data))
    assert sent.size == (4, 6)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
def test_pillow_images_of_other_modes_become_rgb(mode: str) -> None:
    assert open_upright(Image.new(mode, (6, 4))).mode == "RGB"


def test_sixteen_bits_keep_their_high_byte() -> None:
    deep = Image.fromarray(np.array([[0x1234, 0xFFFF]], np.uint16))
    assert np.asarray(open_upright(deep))[0, :, 0].tolist() == [0x12, 0xFF]


def test_an_array_view_is_sent_as_it_looks() -> None:
    view = PIXELS[::-1, ::2]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_image(view).data))), view)


def test_what_is_drawn_on_is_a_copy() -> None:
    mine = PIXELS.copy()
    open_upright(mine).paste((0, 0, 0), (0, 0, 6, 4))
    original = Image.fromarray(PIXELS)
    open_upright(original).paste((0, 0, 0), (0, 0, 6, 4))
    assert np.array_equal(mine, PIXELS)
    assert np.array_equal(np.asarray(original), PIXELS)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 6), np.uint8),
        np.zeros((4, 6, 4), np.uint8),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((0, 6, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_of_another_form_are_refused(array: Any) -> None:
    with pytest.raises(ImageInputError, match=r"uint8 \[H, W, 3\] in RGB"):
        encode_image(array)


@pytest.mark.parametrize("value", [None, 3, {"image": 1}])
def test_what_is_no_image_is_refused(value: Any) -> None:
    with pytest.raises(ImageInputError, match="is no image: give a path"):
        encode_image(value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    for name, why in (("absent.jpg", "No such file"), ("empty.jpg", "empty"), (".", "directory")):
        with pytest.raises(ImageInputError, match=why):
            encode_image(tmp_path / name)


@pytest.mark.parametrize("data", [b"not an image", encoded("PNG")[:40], encoded("JPEG")[:200]])
def test_damaged_pixels_cannot_be_drawn_on(data: bytes) -> None:
    with pytest.raises(ImageInputError, match="cannot be read"):
        open_upright(data)

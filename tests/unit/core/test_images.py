"""Decoding: every format, every orientation, and bytes that end too early."""

import io
import struct
import sys
import threading
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from calibox_core.errors import ImageError, TruncatedImageError, UnsupportedImageError
from calibox_core.images import ImageHeader, decode_image, read_header, upright

HEIGHT, WIDTH = 40, 60
ORIENTATION = 0x0112

# Encodings that keep pixels, and JPEG, which is compared with Pillow's own decoding of the same bytes.
ENCODINGS: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "bmp": {"format": "BMP"},
    "tiff": {"format": "TIFF"},
    "tiff-lzw": {"format": "TIFF", "compression": "tiff_lzw"},
    "jpeg": {"format": "JPEG", "quality": 95},
    "jpeg-progressive": {"format": "JPEG", "progressive": True},
}


def pixels_of_noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def noise(encoding: str, **more: Any) -> bytes:
    return encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)), **ENCODINGS[encoding], **more)


def as_pillow_sees(data: bytes) -> NDArray[np.uint8]:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_format_gives_the_pixels_that_pillow_gives(encoding: str) -> None:
    data = noise(encoding)
    pixels = decode_image(data)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    assert np.array_equal(pixels, as_pillow_sees(data))
    if not encoding.startswith("jpeg"):
        assert np.array_equal(pixels, pixels_of_noise(HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_header_is_read_without_the_pixels(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: ImageFile.ImageFile) -> None:
        raise RuntimeError("the pixels are decoded")

    with monkeypatch.context() as patched:
        patched.setattr(ImageFile.ImageFile, "load", decode)
        header = read_header(noise(encoding))
    assert header == ImageHeader(ENCODINGS[encoding]["format"], WIDTH, HEIGHT, 1)
    assert header.pixels == WIDTH * HEIGHT
    assert np.array_equal(decode_image(noise(encoding), header), decode_image(noise(encoding)))


@pytest.mark.parametrize("mode", ["L", "1", "P"])
@pytest.mark.parametrize("encoding", ["png", "tiff"])
def test_grey_and_palettes_become_rgb(encoding: str, mode: str) -> None:
    data = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)).convert(mode), **ENCODINGS[encoding])
    assert np.array_equal(decode_image(data), as_pillow_sees(data))
    assert not read_header(data).alpha


def over_grey(image: Image.Image) -> NDArray[np.uint8]:
    """As Pillow composites, which rounds in its own way."""
    grey = Image.new("RGBA", image.size, (114, 114, 114, 255))
    return np.asarray(Image.alpha_composite(grey, image.convert("RGBA")).convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("encoding", ["png", "webp", "tiff", "tiff-lzw"])
def test_what_is_transparent_is_laid_over_the_grey_of_the_letterbox(encoding: str, mode: str) -> None:
    image = Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 4)).convert(mode)
    data = encode(image, **ENCODINGS[encoding], **({"exact": True} if encoding == "webp" else {}))
    assert read_header(data).alpha
    pixels = decode_image(data)
    assert np.abs(pixels.astype(int) - over_grey(image)).max() <= 1
    opacity = np.asarray(image.convert("RGBA"))[..., 3]
    assert (pixels[opacity == 0] == 114).all()
    opaque = opacity == 255
    assert np.array_equal(pixels[opaque], np.asarray(image.convert("RGBA"))[opaque][:, :3])


def test_half_transparent_white_is_half_way_to_the_grey() -> None:
    image = Image.new("RGBA", (4, 4), (255, 255, 255, 51))  # a fifth
    assert (decode_image(encode(image, format="PNG")) == 142).all()  # 114 + 0.2 * 141 = 142.2


def test_a_transparent_image_is_turned_upright_too() -> None:
    image = Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 4))
    data = encode(image, format="PNG", exif=with_orientation(6))
    assert decode_image(data).shape == (WIDTH, HEIGHT, 3)
    assert np.array_equal(decode_image(data), upright(decode_image(encode(image, format="PNG")), 6))


def test_a_transparent_image_cut_short_is_truncated() -> None:
    data = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 4)), format="PNG")
    with pytest.raises(TruncatedImageError, match="damaged or ends too early"):
        decode_image(data[: len(data) // 2])


def test_the_unused_channel_of_a_bmp_is_no_transparency() -> None:
    image = Image.new("RGBA", (8, 8), (200, 100, 50, 0))
    assert (decode_image(encode(image, format="BMP")) == [200, 100, 50]).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_samples_of_32_bits_are_unsupported(kind: type[np.generic]) -> None:
    data = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH).astype(kind)), format="TIFF")
    with pytest.raises(UnsupportedImageError, match=r"the TIFF has samples of 32 bits, .*; send it with 8 or 16$"):
        decode_image(data)


@pytest.mark.parametrize("encoding", ["png", "webp", "tiff"])
def test_an_animation_or_a_stack_is_its_first_frame(encoding: str) -> None:
    frames = [Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)[:, :, order]) for order in ([0, 1, 2], [2, 0, 1])]
    data = encode(frames[0], **ENCODINGS[encoding], save_all=True, append_images=frames[1:])
    assert np.array_equal(decode_image(data), np.asarray(frames[0]))


@pytest.mark.parametrize("encoding", ["png", "webp"])
def test_the_first_frame_of_an_animation_that_is_transparent_is_laid_over_grey(encoding: str) -> None:
    pixels = pixels_of_noise(HEIGHT, WIDTH, 4)
    pixels[..., 3] = 255
    pixels[:5, :, 3] = 0
    frames = [Image.fromarray(pixels), Image.new("RGBA", (WIDTH, HEIGHT), (9, 8, 7, 255))]
    options = ENCODINGS[encoding] | ({"exact": True} if encoding == "webp" else {})
    found = decode_image(encode(frames[0], **options, save_all=True, append_images=frames[1:]))
    assert np.array_equal(found[5:], pixels[5:, :, :3])
    assert (found[:5] == 114).all()


def gif(*frames: Image.Image, **options: Any) -> bytes:
    return encode(frames[0], format="GIF", save_all=True, append_images=frames[1:], **options)


def test_a_gif_is_its_first_frame() -> None:
    first, second = (Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue"))
    first.paste("lime", (5, 6, 20, 30))
    data = gif(first, second)
    assert read_header(data) == ImageHeader("GIF", WIDTH, HEIGHT, 1)
    assert np.array_equal(decode_image(data), np.asarray(first))


def test_a_grey_and_a_transparent_gif_become_rgb() -> None:
    grey = pixels_of_noise(HEIGHT, WIDTH)
    assert np.array_equal(decode_image(gif(Image.fromarray(grey))), np.dstack([grey] * 3))
    image = Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)).quantize(16)
    data = gif(image, transparency=3, optimize=False)
    expected = np.where((np.asarray(image) == 3)[..., None], 114, np.asarray(image.convert("RGB")))
    assert read_header(data).alpha
    assert np.array_equal(decode_image(data), expected)


def test_a_gif_tells_its_size_before_a_pixel_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(gif(Image.new("RGB", (WIDTH, HEIGHT), "red")))
    data[6:10] = struct.pack("<HH", 60_000, 60_000)  # of the screen
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("a pixel was decoded"))
    assert read_header(bytes(data)).pixels == 60_000**2
    data[6:10] = struct.pack("<HH", 1, 1)  # a frame that is larger than its screen
    assert read_header(bytes(data)).pixels == WIDTH * HEIGHT


def test_frames_behind_the_first_are_not_read() -> None:
    """Thousands of frames fit into a few kilobytes; what is not even a frame shows that nobody looks."""
    data = gif(Image.new("RGB", (WIDTH, HEIGHT), "red"))
    assert np.array_equal(decode_image(data[:-1] + b"no frame" * 1000), decode_image(data))


@pytest.mark.parametrize("length", [6, 12, 20, 400, 800, -40, -4])
def test_a_gif_that_is_cut_before_its_last_pixel_is_truncated(length: int) -> None:
    data = gif(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)))
    with pytest.raises(TruncatedImageError):
        decode_image(data[:length])


def test_a_grey_jpeg_becomes_rgb() -> None:
    data = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH)), format="JPEG")
    assert np.array_equal(decode_image(data), as_pillow_sees(data))


def test_a_transparent_palette_entry_is_grey() -> None:
    image = Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)).quantize(16)
    data = encode(image, format="PNG", transparency=3)
    expected = np.where((np.asarray(image) == 3)[..., None], 114, np.asarray(image.convert("RGB")))
    assert np.array_equal(decode_image(data), expected)


def test_a_cmyk_tiff_becomes_rgb() -> None:
    data = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)).convert("CMYK"), format="TIFF")
    assert np.array_equal(decode_image(data), as_pillow_sees(data))


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    # Smooth colours, so that the loss of JPEG stays small beside a mistake such as inverted inks.
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    smooth = np.stack([rows * 6, columns * 4, 240 - rows * 3], axis=-1).astype(np.uint8)
    data = encode(Image.fromarray(smooth).convert("CMYK"), format="JPEG", quality=95)
    pixels = decode_image(data)
    # Two decoders may round the DCT differently by one; the rest is the loss of quality 95.
    assert np.abs(pixels.astype(int) - as_pillow_sees(data)).max() <= 1
    assert np.abs(pixels.astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(kind: str) -> None:
    deep = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    pixels = decode_image(encode(Image.fromarray(deep), format=kind))
    assert np.array_equal(pixels, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=-1))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("encoding", ["jpeg", "png", "webp", "tiff", "tiff-lzw"])
def test_orientation_is_undone_as_pillow_does(encoding: str, orientation: int) -> None:
    data = noise(encoding, exif=with_orientation(orientation))
    pixels = decode_image(data)
    assert pixels.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
    assert np.array_equal(pixels, as_pillow_sees(data))
    # The header says what is left to do, so that header and pixels fit together.
    header = read_header(data)
    assert upright(np.empty((header.height, header.width, 3), np.uint8), header.orientation).shape == pixels.shape


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_is_a_view(orientation: int) -> None:
    pixels = pixels_of_noise(3, 5, 3)
    assert np.shares_memory(upright(pixels, orientation), pixels)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    assert read_header(noise("jpeg", exif=with_orientation(orientation))).orientation == 1


def test_damaged_exif_does_not_cost_the_image() -> None:
    data = noise("jpeg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert read_header(data).orientation == 1
    assert decode_image(data).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_image_cut_anywhere_is_truncated(encoding: str) -> None:
    data = noise(encoding)
    signature = 12 if encoding == "webp" else 8 if encoding == "png" else 4  # bytes that name the format
    cuts = {signature, signature + 1, 20, 30, 60, *range(100, len(data), len(data) // 23), len(data) - 1}
    for length in sorted(cuts):
        with pytest.raises(TruncatedImageError):
            decode_image(data[:length])


def test_a_cmyk_jpeg_cut_short_is_truncated() -> None:
    data = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)).convert("CMYK"), format="JPEG")
    with pytest.raises(TruncatedImageError, match="ends too early"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"{}", b"GIF86a" + bytes(60), b"RIFF\0\0\0\0WAVEfmt ", b"%PDF-1.7\n" + bytes(100), bytes(1000)],
    ids=["nothing", "zero", "json", "gif", "wave", "pdf", "zeros"],
)
def test_what_is_no_image_is_unsupported(data: bytes) -> None:
    for read in (read_header, decode_image):
        with pytest.raises(UnsupportedImageError, match=rf"the {len(data)} bytes .*JPEG, PNG, WEBP, BMP, TIFF, GIF"):
            read(data)


def test_the_header_of_a_huge_image_is_read_without_decoding() -> None:
    """The caller's pixel limit decides, so a picture beyond Pillow's own limit must still tell its size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    side = 60_000  # 3.6 gigapixels: decoding them would need 10 GB
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    assert read_header(data).pixels == side * side


@pytest.mark.parametrize(
    ("chunk", "size"),
    [
        (b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + b"\x5f\xea\0" + b"\x5f\xea\0", (60_000, 60_000)),
        # Lossless: one byte of signature, then 14 bits each of width - 1 and height - 1.
        (b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", 15_999 | 15_998 << 14), (16_000, 15_999)),
        # Lossy: the frame's tag, the start code, then 14 bits each of width and height.
        (
            b"VP8 " + struct.pack("<I", 10) + b"\x10\0\0\x9d\1\x2a" + struct.pack("<HH", 16_000, 15_999),
            (16_000, 15_999),
        ),
    ],
)
def test_the_header_of_a_webp_that_is_too_large_for_pillow_tells_its_size(chunk: bytes, size: tuple[int, int]) -> None:
    header = read_header(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
    assert (header.format, header.width, header.height) == ("WEBP", *size)


@pytest.mark.parametrize("at", [33, 8])
def test_a_png_whose_chunk_announces_more_than_there_is_costs_no_memory(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV would make room for it: 2 GB for a few bytes."""
    whole = encode(Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3)), format="PNG")
    long = whole[:at] + struct.pack(">I", 2**31 - 1) + whole[at + 4 :]
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("the bytes went to OpenCV"))
    with pytest.raises(TruncatedImageError, match="damaged or ends too early"):
        decode_image(long, ImageHeader("PNG", WIDTH, HEIGHT, 1))


def test_a_picture_of_several_pictures_is_its_first() -> None:
    """Phones store a preview behind the photograph (MPO)."""
    first = Image.fromarray(pixels_of_noise(HEIGHT, WIDTH, 3))
    data = encode(first, format="MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert read_header(data) == ImageHeader("JPEG", WIDTH, HEIGHT, 1)
    assert np.array_equal(decode_image(data), as_pillow_sees(data))


@given(data=st.data(), encoding=st.sampled_from(sorted(ENCODINGS)))
def test_damaged_bytes_are_an_image_or_an_image_error(data: st.DataObject, encoding: str) -> None:
    damaged = bytearray(noise(encoding))
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    try:
        header = read_header(bytes(damaged))
        # A damaged size may ask for gigabytes: the server's pixel limit stands here.
        if header.pixels <= 4 * HEIGHT * WIDTH:
            assert decode_image(bytes(damaged)).shape[2] == 3
    except ImageError:
        pass


@pytest.fixture
def _threads_that_switch_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_that_switch_often")
def test_threads_that_read_headers_leave_the_warning_filters_alone() -> None:
    damaged = noise("tiff-lzw")[:-40]  # Pillow warns of these

    start = threading.Barrier(4)

    def read() -> None:
        start.wait()
        for _ in range(50):
            with pytest.raises(TruncatedImageError):
                read_header(damaged)

    # A pair of threads that overlap unluckily leaves "ignore" behind for the whole process.
    before = list(warnings.filters)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before

"""Encoded images for tests, made on the spot."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(*, width: int = 80, height: int = 60, seed: int = 0) -> Image.Image:
    """Coarse random colours: survives JPEG, and no two places look alike."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces ``width`` x ``height`` pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 16)), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)

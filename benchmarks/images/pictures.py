"""Pictures in every format that is read, and what an interpreter makes of their pixels."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

# One line for each picture: its name and the SHA-256 of the pixels, decoded and letterboxed, as the server does both.
PROBE = """
import hashlib, pathlib, sys
import numpy as np
from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    pixels = decode_image(path.read_bytes())
    slot = np.zeros((640, 512, 3), np.uint8)
    letterbox_into(slot, pixels)
    print(path.name, hashlib.sha256(pixels.tobytes() + slot.tobytes()).hexdigest())
"""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# Smaller and larger than the slot, much longer than wide, and odd: the resizing has code of its own for some.
SIZES = ((640, 480), (1920, 1081), (97, 61), (333, 2000), (5, 7))


def write_pictures(folder: Path, example: Path, sizes: Iterable[tuple[int, int]] = SIZES) -> None:
    """The example in every size and format, and noise in the loss-free ones, into ``folder``."""
    folder.mkdir(parents=True)
    with Image.open(example) as opened:
        real = opened.convert("RGB")
    chance = np.random.default_rng(0)
    for width, height in sizes:
        noise = Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8))
        for kind in FORMATS:
            (folder / f"real-{width}x{height}.{kind.lower()}").write_bytes(_encoded(real.resize((width, height)), kind))
            (folder / f"noise-{width}x{height}.{kind.lower()}").write_bytes(_encoded(noise, kind))
            (folder / f"grey-{width}x{height}.{kind.lower()}").write_bytes(_encoded(noise.convert("L"), kind))


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()

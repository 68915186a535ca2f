"""Pictures that announce, or unfold to, far more than they weigh: refused before memory is taken for them."""

import asyncio
import struct
import zlib
from collections.abc import Iterator
from itertools import product

import numpy as np
from PIL import Image

from benchmarks.soak.connection import Answer, Connection, Request, post
from benchmarks.soak.findings import Findings
from benchmarks.soak.pictures import DETECT, asked_pictures, beginning, jpegs
from benchmarks.soak.served import Served, serving
from benchmarks.soak.setup import Setup
from benchmarks.soak.surfaces import as_json, encodings, multipart
from tests.support.pictures import encoded, huge_png, picture

SIDE = 60_000  # 3600 megapixels, 10.8 GB as RGB
LIMIT_MB = 24.0  # of growth: several times the body and what any refusal needs, far below the smallest bomb's pixels
UNFOLDED = 400 * 2**20  # bytes that a few hundred KB of deflate become
REPEATS = 4


def bombs() -> dict[str, bytes]:
    """By name."""
    return dict(_announced()) | dict(_unfolding())


def _announced() -> Iterator[tuple[str, bytes]]:
    """Headers that promise what the limit of pixels forbids."""
    yield "png header", huge_png(SIDE, SIDE)
    yield "jpeg header", _jpeg_of(SIDE, SIDE)
    yield "webp canvas", _webp(b"VP8X", b"\2\0\0\0" + 2 * (SIDE - 1).to_bytes(3, "little"))
    # Below the limit of Pillow, whose reader makes room for a whole canvas when it opens one.
    whole = encodings(picture())["animated webp"]
    yield "webp canvas of 13000 x 13000", whole[:24] + 2 * (13_000 - 1).to_bytes(3, "little") + whole[30:]
    yield "webp lossless", _webp(b"VP8L", b"\x2f" + struct.pack("<I", 16_383 | 16_383 << 14))
    yield "bmp header", b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0)
    yield "tiff header", _tiff(SIDE, SIDE)
    screen = b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0)
    yield "gif header", screen + b"\x2c" + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\2\2\x4c\1\0;"


def _unfolding() -> Iterator[tuple[str, bytes]]:
    """Small pictures around a long compressed nothing, and pixels that go on behind the last row."""
    nothing = zlib.compress(bytes(UNFOLDED), 9)
    small = encoded(picture(), "PNG")
    for kind, head in ((b"iCCP", b"profile\0\0"), (b"zTXt", b"comment\0\0"), (b"iTXt", b"comment\0\1\0\0\0")):
        yield f"png {kind.decode()}", small[:33] + _chunk(kind, head + nothing) + small[33:]
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    pixels = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", nothing) + _chunk(b"IEND", b"")
    yield "png pixels without an end", pixels
    frames = [Image.new("L", (64, 64), level) for level in range(200)]
    yield "gif of 200 frames", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _jpeg_of(width: int, height: int) -> bytes:
    whole = encoded(picture(), "JPEG")
    at = next(i for i in range(len(whole)) if whole[i : i + 2] == b"\xff\xc0")
    return whole[: at + 5] + struct.pack(">HH", height, width) + whole[at + 9 :]


def _webp(kind: bytes, body: bytes) -> bytes:
    """With one black frame behind, so that a reader that opens it goes on."""
    chunk = kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    chunk += encoded(picture(), "WEBP")[12:] if kind == b"VP8X" else b""
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def _tiff(width: int, height: int) -> bytes:
    tags = ((256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 1))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def prove(setup: Setup, findings: Findings) -> None:
    """The whole step."""
    with serving(setup.models, setup.scratch, setup.serve) as served:
        asyncio.run(_throw(setup, served, findings))
        status = served.stop()
    findings.must("exit status after SIGTERM", status == 0, found=status, wanted=0)


async def _throw(setup: Setup, served: Served, findings: Findings) -> None:
    sane = (await asked_pictures(served.port, jpegs(setup.bundle, setup.images, 4)))[0]
    connection = await Connection.to(served.port)
    rows = findings.table("Bombs", "bomb", "sent as", "bytes", "answers", "growth of the peak, MB")
    dangerous = []
    for (name, data), form in product(bombs().items(), ("raw", "multipart", "json")):
        grown, answers = await _grown(served, connection, _asking(data, form))
        codes = ", ".join(sorted({_code(answer) for answer in answers}))
        rows.append([name, form, len(data), codes, f"{grown:.1f}"])
        # The body itself lies in memory, in base64 and out of it.
        tame = grown < LIMIT_MB + REPEATS * 4 * len(data) / 1e6 and all(answer.status < 500 for answer in answers)
        after = await connection.ask(sane.request)
        if not tame or beginning(after.body) != sane.right:
            dangerous.append(f"{name}, {form}: {codes}; {grown:.1f} MB")
    grown, answers = await _grown(served, connection, post(DETECT, allowed_picture(), "image/png"))
    connection.close()
    wanted = f"below 500, growth below {LIMIT_MB:.0f} MB and four times the body, a whole request right after it"
    findings.must(f"{len(rows)} bombs", not dangerous, found="; ".join(dangerous) or "all so", wanted=wanted)
    whole = f"{_code(answers[0])}, {grown:.0f} MB"
    findings.must(
        "control: 24 megapixels that are allowed are seen", grown > 3 * 24 * 0.9, found=whole, wanted="> 65 MB"
    )


async def _grown(served: Served, connection: Connection, request: Request) -> tuple[float, list[Answer]]:
    """How far the peak rose in MB while a request was asked `REPEATS` times, with the answers."""
    served.forget_peak()
    before = served.peak()
    answers = [await connection.ask(request) for _ in range(REPEATS)]
    return served.peak() - before, answers


def allowed_picture() -> bytes:
    """24 megapixels of black."""
    return encoded(Image.fromarray(np.zeros((4000, 6000, 3), np.uint8)), "PNG", compress_level=1)


def _asking(data: bytes, form: str) -> Request:
    if form == "multipart":
        return multipart([data], {})
    return as_json([data]) if form == "json" else post(DETECT, data, "application/octet-stream")


def _code(answer: Answer) -> str:
    """The status, and the code of a problem."""
    code = answer.body.partition(b'"code":"')[2].partition(b'"')[0]
    return f"{answer.status} {code.decode()}".strip()

"""Pictures to send, with the answers that are right for them."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.soak.connection import Connection, Request, post
from calibox_core.bundle import Bundle
from tests.support.pictures import encoded, picture

DETECT = "/v1/detect"
_TIMING = b',"timing":'  # what differs from answer to answer stands behind


@dataclass(frozen=True, slots=True)
class Asked:
    """A request and how its right answer begins."""

    request: Request
    right: bytes


def variants(bundle: Bundle, count: int, *, seed: int = 0) -> list[Image.Image]:
    """Parts of the bundle's example, or made-up pictures where it has none; no two alike."""
    if bundle.manifest.example is None:
        return [picture(width=160 + 8 * i, height=120, seed=seed + i) for i in range(count)]
    whole = Image.open(io.BytesIO((bundle.folder / bundle.manifest.example).read_bytes())).convert("RGB")
    rng = np.random.default_rng(seed)
    cut = rng.uniform(0, 0.2, (count, 2)) * whole.size
    return [whole.crop((int(x), int(y), *whole.size)) for x, y in cut]


def jpegs(bundle: Bundle, folder: Path | None, count: int) -> list[bytes]:
    """The first pictures of a folder as they are, or `variants` as JPEG."""
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))[:count]]
    return [encoded(image, "JPEG", quality=90) for image in variants(bundle, count)]


def beginning(body: bytes) -> bytes:
    """An answer of `POST /v1/detect` without its times."""
    return body.partition(_TIMING)[0] + _TIMING


async def asked_of(port: int, requests: list[Request]) -> list[Asked]:
    """Each request with its answer, asked alone.

    Raises:
        AssertionError: one is not answered with detections, or none has any.
    """
    connection, found = await Connection.to(port), []
    for request in requests:
        answer = await connection.ask(request)
        assert answer.status == 200, answer.body
        found.append(Asked(request, beginning(answer.body)))
    connection.close()
    assert any(b'"box"' in one.right for one in found), "no picture has a detection: answers could not be told apart"
    return found


async def asked_pictures(port: int, pictures: list[bytes]) -> list[Asked]:
    """`asked_of` for raw pictures."""
    return await asked_of(port, [post(DETECT, data) for data in pictures])

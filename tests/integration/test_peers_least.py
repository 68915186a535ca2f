"""benchmarks/peers/least.py: the floor that calibox is compared with does the same work."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import orjson

from benchmarks.peers.least import Answering, listen
from calibox_server.options import available_cores
from tests.support.bundles import make_tiny_bundle
from tests.support.live_server import live_server
from tests.support.pictures import encoded, picture

IMAGES = [encoded(picture(width=320, height=200, seed=seed), "JPEG", quality=95) for seed in range(3)]


async def ask(answering: Answering) -> list[Any]:
    """What is found in each image, asked over one connection; the second body comes in pieces."""
    server = await listen(answering, 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    found = []
    for number, image in enumerate(IMAGES):
        request = b"POST /any HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(image), image)
        for piece in (request[:200], request[200:]) if number == 1 else (request,):
            writer.write(piece)
            await asyncio.sleep(0.05)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        found.append(orjson.loads(await reader.readexactly(int(head.split(b"content-length: ")[1]))))
    writer.close()
    server.close()
    for _ in range(available_cores()):
        answering.jobs.put(None)
    return found


def test_it_answers_what_calibox_answers(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path)
    with live_server(tmp_path) as url:
        expected = [
            httpx2.post(f"{url}/v1/detect", content=image, headers={"Content-Type": "image/jpeg"}).json()
            for image in IMAGES
        ]
    found = asyncio.run(ask(Answering(folder)))
    assert [answer["results"] for answer in found] == [answer["results"] for answer in expected]
    assert any(answer["results"][0]["detections"] for answer in found)

"""The least HTTP server around calibox's pipeline: what a server in Python costs when it does nothing that one should.

    python -m benchmarks.peers.least --bundle bundles/tiny --port 8000

Every `POST` of an image is answered as `POST /v1/detect` answers it, by the same functions in as many threads as there
are cores, behind the same event loop. There are no other addresses, no errors, limits, queue, parameters, metrics or
shutdown: it is no server to use, but the floor that the cost of calibox's is compared with.
"""

import argparse
import asyncio
import gc
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import cast

import numpy as np
import uvloop

from calibox_core.bundle import read_bundle
from calibox_server.decoding import decode_into, prepare_decoders
from calibox_server.detections import finish
from calibox_server.detections_json import DetectionsWriter
from calibox_server.engine import warm_up
from calibox_server.engine_runner import Work, stack, unpadded
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.options import available_cores
from calibox_server.parameters import read_parameters
from calibox_server.requests import ImagePart

MAX_PIXELS = 10**8
_LENGTH = b"content-length:"
Jobs = SimpleQueue[tuple[bytes, asyncio.Transport] | None]


class Answering:
    """Answers images in threads.

    Args:
        bundle: its folder.
    """

    def __init__(self, bundle: Path) -> None:
        prepare_decoders()
        read = read_bundle(bundle)
        self._manifest = read.manifest
        self._writer = DetectionsWriter(read.manifest)
        self._engine = OnnxRuntimeEngine(read, instances=available_cores())
        warm_up(self._engine, read.manifest)
        self._parameters = read_parameters({}, read.manifest, default_timeout_ms=1000)
        self.jobs: Jobs = SimpleQueue()  # None ends a thread

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """A thread for each core, which need not be ended before the process."""
        for _ in range(available_cores()):
            threading.Thread(target=self._work, args=(loop,), daemon=True).start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        size = self._manifest.input
        slot = np.empty((size.height, size.width, 3), np.uint8)
        while (job := self.jobs.get()) is not None:
            image, transport = job
            loop.call_soon_threadsafe(transport.write, self._answer(image, slot))

    def _answer(self, image: bytes, slot: np.ndarray) -> bytes:
        pad = self._manifest.input.pad_value
        placed = decode_into(slot, ImagePart(image, "the image"), max_pixels=MAX_PIXELS, pad_value=pad)
        out = self._engine.run(stack([Work(slot, self._parameters, 0, 0.0)]))
        body = self._writer.write([finish(unpadded(out, 0), placed, self._parameters, self._manifest)], {})
        return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class Connection(asyncio.Protocol):
    """One request at a time.

    Args:
        jobs: gets the bodies.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._parts: list[bytes] = []
        self._missing = 0  # bytes of the body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """A piece of a request; the first holds its whole head."""
        if not self._parts:
            head, _, data = data.partition(b"\r\n\r\n")
            self._missing = int(head.lower().partition(_LENGTH)[2].partition(b"\r\n")[0] or b"0")
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing <= 0:
            whole, self._parts = b"".join(self._parts), []
            self._jobs.put((whole, self._transport))


async def listen(answering: Answering, port: int) -> asyncio.Server:
    """Takes requests from now on."""
    loop = asyncio.get_running_loop()
    answering.start(loop)
    return await loop.create_server(lambda: Connection(answering.jobs), "127.0.0.1", port)


async def serve(answering: Answering, port: int) -> None:
    """Until the process is ended."""
    await (await listen(answering, port)).serve_forever()


def main() -> None:
    parse = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parse.add_argument("--bundle", type=Path, required=True, help="folder with manifest.json")
    parse.add_argument("--port", type=int, required=True)
    options = parse.parse_args()
    answering = Answering(options.bundle)
    gc.collect()
    gc.freeze()  # as calibox does
    uvloop.run(serve(answering, options.port))


if __name__ == "__main__":
    main()

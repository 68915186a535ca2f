"""Whether many calls of the client leave anything in memory, and what a call costs.

    python benchmarks/sdk_memory.py [--calls 100000] [--most-kib 1024] [--ways sync,async,many,many-async,stream]

A server in a process of its own answers at once, always with the same ten detections. Resident memory of the client's
process is read after a first tenth of the calls (connections, caches and the allocator's pools are there by then), at
every further tenth, and at the end; the growth is the end less the start. Exit status 1 where it is above --most-kib.
"""

import argparse
import asyncio
import gc
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from websockets.asyncio.server import ServerConnection, serve

from calibox_client import AsyncClient, Client

IMAGE = b"\xff\xd8\xff" + bytes(10_000)  # of a small JPEG's length; nobody decodes it
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
TENTHS = 10
Way = Callable[[str, int, Callable[[], None]], None]


def document() -> dict[str, object]:
    """Ten detections in the form of a server's answer."""
    scores = {"score": 0.8123456789, "classification_score": 0.9, "localization_score": 0.7345678901}
    found = [{"box": [1.5 * i, 2.25 * i, 40.0, 50.125], "label": "WBC", "label_id": 2, **scores} for i in range(10)]
    results = [{"width": 640, "height": 480, "detections": found}]
    return {"model": "cells", "version": "1", "results": results, "timing": {"total": 1.0}}


class Answerer(asyncio.Protocol):
    """As little of HTTP as the client needs."""

    body = json.dumps(document()).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing was read yet."""
        assert isinstance(transport, asyncio.Transport)
        self._transport, self._data = transport, bytearray()

    def data_received(self, data: bytes) -> None:
        """Answers each request when its last byte is there."""
        self._data += data
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._data[:end]).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._data) >= end + 4 + length:
            del self._data[: end + 4 + length]
            self._transport.write(self.reply)


async def answer_frames(socket: ServerConnection) -> None:
    """Answers the frames of a stream."""
    number = itertools.count()
    async for message in socket:
        if isinstance(message, bytes):
            await socket.send(json.dumps({"frame": next(number), **document()}))


async def be_the_server() -> None:
    """Prints the two ports, then answers until it is killed."""
    http = await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", 0)
    frames = await serve(answer_frames, "127.0.0.1", 0, compression=None)
    print(http.sockets[0].getsockname()[1], next(iter(frames.sockets)).getsockname()[1], flush=True)
    await asyncio.Event().wait()


def sync(url: str, calls: int, tell: Callable[[], None]) -> None:
    """One call after the other."""
    with Client(url) as client:
        for _ in range(calls):
            client.detect(IMAGE)
            tell()


def asynchronous(url: str, calls: int, tell: Callable[[], None]) -> None:
    """Eight tasks that share a client."""

    async def run() -> None:
        left = iter(range(calls))

        async def work(client: AsyncClient) -> None:
            for _ in left:
                await client.detect(IMAGE)
                tell()

        async with AsyncClient(url) as client, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(work(client))

    asyncio.run(run())


def many(url: str, calls: int, tell: Callable[[], None]) -> None:
    """`detect_many` of the blocking client."""
    with Client(url) as client:
        for _ in client.detect_many(itertools.repeat(IMAGE, calls)):
            tell()


def many_async(url: str, calls: int, tell: Callable[[], None]) -> None:
    """`detect_many` of the asynchronous client."""

    async def images() -> AsyncIterator[bytes]:
        for _ in range(calls):
            yield IMAGE

    async def run() -> None:
        async with AsyncClient(url) as client:
            async for _ in client.detect_many(images()):
                tell()

    asyncio.run(run())


def stream(url: str, calls: int, tell: Callable[[], None]) -> None:
    """One stream of so many frames."""
    with Client(url) as client:
        for _ in client.stream(itertools.repeat(IMAGE, calls)):
            tell()


WAYS: dict[str, Way] = {
    "sync": sync,
    "async": asynchronous,
    "many": many,
    "many-async": many_async,
    "stream": stream,
}


def resident_kib() -> int:
    """Resident memory of this process, after whatever is unreachable was freed."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_KIB


def measure(way: str, url: str, calls: int, leak: int) -> dict[str, object]:
    """Calls so often, and watches memory and time."""
    seen: list[int] = []
    kept: list[bytes] = []
    counted = itertools.count(1)
    times: list[float] = []

    def tell() -> None:
        if leak:
            kept.append(os.urandom(leak))
        if next(counted) % (calls // TENTHS) == 0:
            seen.append(resident_kib())
            used = resource.getrusage(resource.RUSAGE_SELF)
            times.append(used.ru_utime + used.ru_stime)

    started = time.perf_counter()
    WAYS[way](url, calls, tell)
    seconds = time.perf_counter() - started
    return {
        "way": way,
        "calls": calls,
        "growth_kib": seen[-1] - seen[0],
        "resident_kib": seen,
        "calls_per_s": round(calls / seconds),
        "cpu_ms_per_call": round((times[-1] - times[0]) * 1e3 / (calls * (TENTHS - 1) / TENTHS), 3),
    }


def ports(process: subprocess.Popen[str]) -> Iterator[str]:
    """Where the server listens for HTTP and for streams."""
    assert process.stdout is not None
    for port in process.stdout.readline().split():
        yield f"http://127.0.0.1:{port}"


def main() -> int:
    """Prints one JSON object per way; each has a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--most-kib", type=int, default=1024)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--leak", type=int, default=0, help="bytes that the tool keeps per call: does it notice?")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(be_the_server())
    if given.url:
        print(json.dumps(measure(given.ways, given.url, given.calls, given.leak)))
        return 0
    grown = []
    with subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            http, frames = ports(server)
            for way in given.ways.split(","):
                asked = ["--ways", way, "--calls", str(given.calls), "--leak", str(given.leak)]
                asked += ["--url", frames if way == "stream" else http]
                done = subprocess.run([sys.executable, __file__, *asked], stdout=subprocess.PIPE, text=True, check=True)
                print(done.stdout.strip(), flush=True)
                grown += [json.loads(done.stdout)["growth_kib"]]
        finally:
            server.kill()
    return int(max(grown) > given.most_kib)


if __name__ == "__main__":
    sys.exit(main())

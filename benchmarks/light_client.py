"""A closed-loop HTTP client that costs little: raw sockets, requests built beforehand. Prints one JSON object.

Run by server_throughput.py in a process of its own, so that its CPU time can be told from the server's:

    python benchmarks/light_client.py HOST PORT CONCURRENCY SECONDS IMAGE [IMAGE...]
"""

import asyncio
import itertools
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

WARM_UP_S = 0.3  # connections, caches and thread pools; not measured
PATIENCE_S = 60.0  # for the last answers of a server that is slow


class Connection(asyncio.Protocol):
    """One connection that sends the next request when the last one was answered."""

    def __init__(self, requests: Iterator[bytes], log: "Log") -> None:
        self._requests = requests
        self._log = log
        self._head = b""
        self._missing = 0
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Sends the first request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._log.open.add(self)
        self._send()

    def _send(self) -> None:
        self._head, self._missing, self._sent = b"", -1, time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Counts the answer's bytes until it is whole."""
        if self._missing < 0:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._missing, data = int(length.partition(b":")[2]), body
        self._missing -= len(data)
        if self._missing <= 0:
            self._log.answered(self._sent, ok=self._head.startswith(b"HTTP/1.1 200 "))
            if self._log.stopping:
                self._transport.close()
            else:
                self._send()

    def connection_lost(self, _: Exception | None) -> None:
        """Either end closed; the server should not."""
        self._log.closed(self)


class Log:
    """What was answered while it was being measured."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors = self.lost = self.all = 0
        self.measuring = self.stopping = False
        self.open: set[Connection] = set()
        self.done = asyncio.Event()

    def closed(self, connection: Connection) -> None:
        """Notes the end of a connection."""
        self.lost += not self.stopping
        self.open.discard(connection)
        if not self.open:
            self.done.set()

    def answered(self, sent: float, *, ok: bool) -> None:
        """Notes one answer to a request of the time ``sent``."""
        self.all += 1
        if self.measuring:
            self.latencies.append(time.perf_counter() - sent)
            self.errors += not ok


def request_bytes(host: str, port: int, image: bytes) -> bytes:
    """A whole request with a raw body."""
    lines = (
        "POST /v1/detect HTTP/1.1",
        f"Host: {host}:{port}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(image)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + image


async def load(host: str, port: int, concurrency: int, seconds: float, images: list[bytes]) -> dict[str, float]:
    """Keeps ``concurrency`` requests under way for ``seconds``."""
    log = Log()
    requests = itertools.cycle([request_bytes(host, port, image) for image in images])
    loop = asyncio.get_running_loop()
    for _ in range(concurrency):
        await loop.create_connection(lambda: Connection(requests, log), host, port)
    await asyncio.sleep(WARM_UP_S)
    log.measuring, started, cpu = True, time.perf_counter(), cpu_seconds()
    await asyncio.sleep(seconds)
    log.measuring, wall, cpu = False, time.perf_counter() - started, cpu_seconds() - cpu
    log.stopping = True
    async with asyncio.timeout(
        PATIENCE_S
    ):  # what is under way is answered, so that the server's CPU time has its count
        await log.done.wait()
    times = sorted(log.latencies)
    if not times:
        raise SystemExit(f"no answer within {seconds} s; {log.lost} connections were lost")
    at = {name: times[round((len(times) - 1) * share)] * 1e3 for name, share in QUANTILES.items()}
    return {
        "requests": len(times),
        "all": log.all,  # with those of the warm-up
        "per_s": len(times) / wall,
        "errors": log.errors + log.lost,
        "cpu_ms": cpu * 1e3 / len(times),
        **at,
    }


QUANTILES = {"p05_ms": 0.05, "p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    host, port, concurrency, seconds, *paths = sys.argv[1:]
    images = [Path(path).read_bytes() for path in paths]
    print(json.dumps(asyncio.run(load(host, int(port), int(concurrency), float(seconds), images))))


if __name__ == "__main__":
    main()

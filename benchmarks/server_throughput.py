"""What HTTP, queue and batching cost: the server against the same pipeline inside one process, on the same cores.

    python benchmarks/server_throughput.py --bundle models --images DIR [--rounds 9] [--seconds 3] [--json]

In-process: decode + letterbox + engine + JSON by the server's own functions, in the fastest of a few thread
configurations. Segments alternate (A B A B): in-process, server at one concurrency, in-process, server at the next ...;
each server segment is divided by the mean of its two neighbours. Other processes make every ratio worthless: `foreign`
says how many cores they took. CPU efficiency (in-process CPU per image / server CPU per request) holds up better.
"""

import argparse
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from light_client import QUANTILES, cpu_seconds

from calibox_core.bundle import find_bundles, read_bundle
from calibox_core.images import FORMATS
from calibox_server.decoding import decode_into, prepare_decoders
from calibox_server.detections import finish
from calibox_server.detections_json import DetectionsWriter
from calibox_server.engine_runner import Work, stack, unpadded
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.options import available_cores
from calibox_server.parameters import read_parameters
from calibox_server.requests import ImagePart

MAX_PICTURES = 64  # enough that no cache holds one picture's answer, few enough to keep in memory
ALONE = 30  # images of the latency measurement inside each in-process segment
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Setting:
    """``workers`` threads, each decoding ``batch`` images and running them with ``threads`` threads."""

    workers: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.workers} workers x {self.threads} threads, batch {self.batch}"


class InProcess:
    """The pipeline without a server."""

    def __init__(self, bundle_folder: Path, images: list[Path]) -> None:
        prepare_decoders()
        self.bundle = read_bundle(bundle_folder)
        self.parts = [ImagePart(path.read_bytes(), "the image") for path in images]
        self._writer = DetectionsWriter(self.bundle.manifest)
        self.parameters = read_parameters({}, self.bundle.manifest, default_timeout_ms=1000)
        self._engines: dict[int, OnnxRuntimeEngine] = {}

    def engine(self, threads: int) -> OnnxRuntimeEngine:
        """The engine with so many threads inside a run."""
        if threads not in self._engines:
            self._engines[threads] = OnnxRuntimeEngine(self.bundle, intra_op_threads=threads)
        return self._engines[threads]

    def answer(self, parts: list[ImagePart], slots: np.ndarray, engine: OnnxRuntimeEngine) -> bytes:
        """Everything that the server does for these images, but HTTP and queue."""
        manifest = self.bundle.manifest
        pad = manifest.input.pad_value
        boxes = [
            decode_into(slot, part, max_pixels=10**9, pad_value=pad) for slot, part in zip(slots, parts, strict=True)
        ]
        out = engine.run(stack([Work(slot, self.parameters, 0, 0.0) for slot in slots]))
        found = [finish(unpadded(out, i), box, self.parameters, manifest) for i, box in enumerate(boxes)]
        return self._writer.write(found, {})

    def _slots(self, batch: int) -> np.ndarray:
        size = self.bundle.manifest.input
        return np.empty((batch, size.height, size.width, 3), np.uint8)

    def throughput(self, setting: Setting, seconds: float) -> dict[str, float]:
        """Images per second and CPU milliseconds per image."""
        engine = self.engine(setting.threads)
        counts = [0] * setting.workers
        stop = time.perf_counter() + seconds

        def work(worker: int) -> None:
            slots, parts = self._slots(setting.batch), itertools.cycle(self.parts)
            for _ in range(worker * 3):
                next(parts)  # workers are not at the same picture
            while time.perf_counter() < stop:
                self.answer([next(parts) for _ in range(setting.batch)], slots, engine)
                counts[worker] += setting.batch

        started, cpu = time.perf_counter(), cpu_seconds()
        threads = [threading.Thread(target=work, args=(i,)) for i in range(setting.workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall, used = time.perf_counter() - started, cpu_seconds() - cpu
        return {"per_s": sum(counts) / wall, "cpu_ms": used * 1e3 / sum(counts)}

    def latency(self) -> dict[str, float]:
        """Milliseconds of one image alone, with as many threads as the server uses for one."""
        engine, slots, times = self.engine(1), self._slots(1), []
        for part in itertools.islice(itertools.cycle(self.parts), ALONE):
            started = time.perf_counter()
            self.answer([part], slots, engine)
            times.append((time.perf_counter() - started) * 1e3)
        times.sort()
        return {name: times[round((ALONE - 1) * QUANTILES[name])] for name in ("p05_ms", "p50_ms")}


def settings_to_try(cores: int) -> list[Setting]:
    """One image per worker, one image over all cores, and batches."""
    tried = [(cores, 1, 1), (2 * cores, 1, 1), (1, cores, 1), (cores, 1, 4), (1, cores, 8)]
    return [Setting(*numbers) for numbers in dict.fromkeys(tried)]


@contextmanager
def server(bundle: Path, options: list[str]) -> Iterator[tuple[int, int]]:
    """Runs `calibox serve`; gives its process id and port."""
    command = [sys.executable, "-m", "calibox_core.cli", "serve", "--models", str(bundle), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"http://[^/]+:(\d+)/docs", line):
                    yield process.pid, int(found[1])
                    break
            else:
                raise SystemExit("the server did not start; its message is above")
        finally:
            process.terminate()


def processes_of(pid: int) -> list[int]:
    """A server's process and those below it, of which there are some with `--http-workers`."""
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def cpu_of(pid: int) -> float:
    """CPU seconds of a server's processes so far."""
    stats = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in processes_of(pid)]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / TICKS


def busy() -> float:
    """CPU seconds that all cores have spent so far on anything."""
    user, nice, system, _, _, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICKS


def watched(segment: Callable[[], dict[str, float]], pid: int) -> dict[str, float]:
    """Runs a segment and adds the server's CPU seconds and the cores that other processes took."""
    before = busy(), cpu_of(pid), sum(os.times()[:4]), time.perf_counter()
    result = segment()
    used, served, own, wall = (
        now - then
        for now, then in zip((busy(), cpu_of(pid), sum(os.times()[:4]), time.perf_counter()), before, strict=True)
    )
    return {**result, "server_cpu_s": served, "foreign": max(0.0, (used - served - own) / wall)}


def client(port: int, concurrency: int, seconds: float, images: list[Path]) -> dict[str, float]:
    """One run of the light client in its own process."""
    script = Path(__file__).with_name("light_client.py")
    command = [sys.executable, str(script), "127.0.0.1", str(port), str(concurrency), str(seconds), *map(str, images)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def measure(arguments: argparse.Namespace, bundle: Path, images: list[Path]) -> dict[str, Any]:
    """All segments, in the order they were run."""
    inside = InProcess(bundle, images)
    inside.latency()  # warm-up
    sweep = {s: inside.throughput(s, arguments.seconds) for s in settings_to_try(available_cores())}
    best = max(sweep, key=lambda s: sweep[s]["per_s"])
    rounds: list[dict[str, Any]] = []
    with server(bundle, arguments.serve) as (pid, port):

        def alone() -> dict[str, float]:
            return {**inside.throughput(best, arguments.seconds), **inside.latency()}

        before = watched(alone, pid)
        for number, concurrency in itertools.product(range(arguments.rounds), arguments.concurrency):
            served = watched(lambda: client(port, concurrency, arguments.seconds, images), pid)  # noqa: B023 - run at once
            after = watched(alone, pid)
            rounds.append(
                {"round": number, "concurrency": concurrency, "before": before, "server": served, "after": after}
            )
            before = after
    return {
        "machine": {"cores": available_cores(), "cpu": cpu_name(), "python": platform.python_version()},
        "engine": inside.engine(1).name,
        "bundle": f"{inside.bundle.manifest.name}/{inside.bundle.manifest.version}",
        "images": len(images),
        "sweep": {str(setting): found for setting, found in sweep.items()},
        "best": str(best),
        "rounds": rounds,
    }


def cpu_name() -> str:
    """The processor, as the kernel calls it."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.processor()


def spread(values: list[float], form: str = "{:.2f}") -> str:
    """Median and range."""
    return " ".join(
        (form.format(statistics.median(values)), f"[{form.format(min(values))}..{form.format(max(values))}]")
    )


def table(found: dict[str, Any], concurrencies: list[int]) -> str:
    """The result as Markdown."""

    def mean(row: dict[str, Any], key: str) -> float:
        return float(row["before"][key] + row["after"][key]) / 2

    lines = [
        f"{found['bundle']}, {found['engine']}, {found['images']} images, {found['machine']['cores']} cores of "
        f"{found['machine']['cpu']}; in-process: {found['best']}",
        "",
        "| concurrency | server / in-process | server img/s | in-process img/s | p50 / p95 / p99 ms | CPU efficiency "
        "| server + client CPU ms | errors | foreign cores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for concurrency in concurrencies:
        rows = [row for row in found["rounds"] if row["concurrency"] == concurrency]
        served = [row["server"] for row in rows]
        cpu = [s["server_cpu_s"] * 1e3 / s["all"] for s in served]
        quantiles = " / ".join(f"{statistics.median(s[q] for s in served):.1f}" for q in ("p50_ms", "p95_ms", "p99_ms"))
        foreign = [max(row[part]["foreign"] for part in ("before", "server", "after")) for row in rows]
        cells = [
            str(concurrency),
            spread([row["server"]["per_s"] / mean(row, "per_s") for row in rows]),
            spread([s["per_s"] for s in served], "{:.1f}"),
            spread([mean(row, "per_s") for row in rows], "{:.1f}"),
            quantiles,
            spread([mean(row, "cpu_ms") / c for row, c in zip(rows, cpu, strict=True)]),
            f"{statistics.median(cpu):.2f} + {statistics.median(s['cpu_ms'] for s in served):.2f}",
            str(sum(int(s["errors"]) for s in served)),
            spread(foreign),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    rows = [row for row in found["rounds"] if row["concurrency"] == 1]
    if rows:
        for name in ("p50", "p05"):
            added = spread([row["server"][f"{name}_ms"] - mean(row, f"{name}_ms") for row in rows], "{:+.2f}")
            alone = spread([mean(row, f"{name}_ms") for row in rows])
            lines += ["", f"Added to one request at concurrency 1, {name}: {added} ms (in process {alone} ms)."]
    return "\n".join(lines)


def pictures(folder: Path) -> list[Path]:
    """The first images of a folder, by name."""
    endings = tuple(f".{name.lower()}" for name in (*FORMATS, "jpg", "tif"))
    found = sorted(path for path in folder.iterdir() if path.name.lower().endswith(endings))
    if not found:
        raise SystemExit(f"no images in {folder}; name a folder of pictures with --images")
    return found[:MAX_PICTURES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="a version's folder, or a folder with one bundle")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures to send")
    parser.add_argument("--rounds", type=int, default=9, help="rounds over all concurrencies")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each segment")
    parser.add_argument("--concurrency", type=lambda t: [int(c) for c in t.split(",")], default=[1, 8, 32])
    parser.add_argument(
        "--serve", action="append", default=[], help="further options of calibox serve, as --serve=--max-batch=4"
    )
    parser.add_argument(
        "--json", action="store_true", help="print every segment as one JSON object instead of the table"
    )
    arguments = parser.parse_args()
    bundles = find_bundles(arguments.bundle.resolve())
    if len(bundles) != 1:
        raise SystemExit(f"{arguments.bundle} holds {len(bundles)} bundles; name one version's folder with --bundle")
    found = measure(arguments, bundles[0], pictures(arguments.images))
    print(json.dumps(found) if arguments.json else table(found, arguments.concurrency))


if __name__ == "__main__":
    main()

"""What Ray Serve costs and does: its proxy beside the plain server, replicas that come, go and are replaced under load.

    python -m benchmarks.ray_serve [--haproxy] [--rounds 3] [--seconds 6]

A tiny network answers in a millisecond, so that what is measured is the way to it. Prints Markdown.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

from calibox_client import Client
from tests.integration.test_deployment_proxy import free_ports
from tests.support.bundles import make_tiny_bundle
from tests.support.live_server import serve_command
from tests.support.pictures import encoded, picture
from tests.support.ray_cluster import HAPROXY, Cluster, adapted, ray_cluster

PATIENCE_S = 180
BODY_MIB = 300
PROXY = "ray::ProxyActor"
PAGE = os.sysconf("SC_PAGE_SIZE")
ONE_CORE = ("--instances", "1", "--decode-threads", "1", "--no-tune", "--log-level", "warning")


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--haproxy", action="store_true", help="in place of the proxy in Python")
    asked = parser.parse_args()
    variables = HAPROXY if asked.haproxy else {}
    with tempfile.TemporaryDirectory() as name:
        models = Path(name)
        make_tiny_bundle(models)
        show_overhead(models, asked.rounds, asked.seconds, variables)
        show_changes(models, variables)


def show_overhead(models: Path, rounds: int, seconds: float, variables: dict[str, str]) -> None:
    """Latency and throughput of one replica and of the plain server, in turn."""
    image = models / "image.jpg"
    image.write_bytes(encoded(picture(width=640, height=480), "JPEG"))
    own, port = free_ports(2)
    rows: dict[tuple[str, int], list[dict[str, Any]]] = {}
    config = adapted(models, port, min_replicas=1, max_replicas=1)
    plain = serve_command("--models", str(models), "--port", str(own), *ONE_CORE)
    with plain, ray_cluster(config, cores=2, **variables) as cluster:
        for _ in range(rounds):
            for name, url in (("calibox serve", f"http://127.0.0.1:{own}"), ("Ray Serve", cluster.url)):
                for row in bench(url, image, seconds):
                    rows.setdefault((name, row["concurrency"]), []).append(row)
    print(f"One core each, an image of 640 x 480, median of {rounds} rounds of {seconds:g} s; load {load()}\n")
    print("| served by | concurrency | p50 ms | p99 ms | answers/s | errors |\n|---|---|---|---|---|---|")
    for (name, concurrency), found in sorted(rows.items(), key=lambda item: item[0][1]):
        p50, p99 = (statistics.median(row["latency_ms"][q] for row in found) for q in ("p50", "p99"))
        rate = statistics.median(row["answered_per_s"] for row in found)
        errors = sum(sum(row["errors"].values()) for row in found)
        print(f"| {name} | {concurrency} | {p50:.1f} | {p99:.1f} | {rate:.0f} | {errors} |", flush=True)


def bench(url: str, image: Path, seconds: float) -> list[dict[str, Any]]:
    """Closed loops of one and of eight."""
    command = [sys.executable, "-m", "calibox_core.cli", "bench", str(image), "--server", url, "--concurrency", "1,8"]
    command += ["--seconds", str(seconds), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [json.loads(line) for line in done.stdout.splitlines()]


def show_changes(models: Path, variables: dict[str, str]) -> None:
    """Replicas that are added, replaced and taken away under load, and the proxy's memory under a body without end."""
    (port,) = free_ports(1)
    quick = {"upscale_delay_s": 1, "downscale_delay_s": 5, "metrics_interval_s": 1, "look_back_period_s": 3}
    config = adapted(models, port, min_replicas=1, max_replicas=3, target_ongoing_requests=2, **quick)
    print("\n| what | seconds | answers | repeats of the SDK | failures |\n|---|---|---|---|---|")
    with ray_cluster(config, cores=4, **variables) as cluster:
        with loaded(cluster.url) as tell:
            tell("one replica becomes three", wait(lambda: len(cluster.replicas()) >= 3))
            before = cluster.replicas()
            config["applications"][0]["args"]["max_images"] = 16
            deploy(cluster, config)
            tell("all are replaced, with other settings", wait(lambda: not before & cluster.replicas()))
        print(f"| three become one, without load | {wait(lambda: len(cluster.replicas()) == 1):.0f} | | | |")
        show_body(cluster)


@contextmanager
def loaded(url: str) -> Iterator[Callable[[str, float], None]]:
    """Eight requests of the SDK under way; gives what prints a row of them."""
    stop, answers, repeats, failures = threading.Event(), [0], [0], [0]

    def pictures() -> Iterator[bytes]:
        kinds = [encoded(picture(width=400, height=300, seed=seed), "JPEG") for seed in range(4)]
        while not stop.is_set():
            yield kinds[answers[0] % len(kinds)]

    def note(_error: BaseException, _pause: float) -> None:
        repeats[0] += 1

    def ask() -> None:
        with Client(url, on_retry=note) as client:
            for one in client.detect_many(pictures(), concurrency=8, on_error="return"):
                answers[0] += 1
                failures[0] += isinstance(one, Exception)

    def tell(what: str, seconds: float) -> None:
        print(f"| {what} | {seconds:.0f} | {answers[0]} | {repeats[0]} | {failures[0]} |", flush=True)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield tell
    finally:
        stop.set()
        thread.join()


def deploy(cluster: Cluster, config: dict[str, Any]) -> None:
    """Serves another config on a cluster, from a process that ends."""
    code = (
        "import json, sys, ray\n"
        "from ray.serve.context import _get_global_client\n"
        "from ray.serve.schema import ServeDeploySchema\n"
        "ray.init(namespace='serve', log_to_driver=False)\n"
        "config = ServeDeploySchema(**json.load(sys.stdin))\n"
        "_get_global_client().deploy_apps(config, _blocking=False)\n"
    )
    told = {"input": json.dumps(config), "text": True, "env": cluster.environment, "capture_output": True}
    subprocess.run([sys.executable, "-c", code], check=True, **told)  # type: ignore[call-overload]


def show_body(cluster: Cluster) -> None:
    """A body that is longer than the server reads, and does not say so."""
    (proxy,) = cluster.processes(PROXY) or cluster.processes("haproxy")
    before = highest = resident(proxy)
    ended = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not ended.wait(0.02):
            highest = max(highest, resident(proxy))

    watcher = threading.Thread(target=watch)
    watcher.start()
    body = (b"\0" * 2**20 for _ in range(BODY_MIB))
    answer = httpx2.post(f"{cluster.url}/v1/detect", content=body, timeout=PATIENCE_S)
    ended.set()
    watcher.join()
    print(f"\nA body of {BODY_MIB} MiB without Content-Length: {answer.status_code}; the proxy grew by "
          f"{(highest - before) / 2**20:.0f} MiB.")  # fmt: skip


def resident(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def wait(until: Callable[[], bool]) -> float:
    """Seconds until it holds."""
    start = time.monotonic()
    while not until():
        if time.monotonic() - start > PATIENCE_S:
            raise TimeoutError
        time.sleep(0.2)
    return time.monotonic() - start


def load() -> str:
    """Of the machine, a minute's mean."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


if __name__ == "__main__":
    main()

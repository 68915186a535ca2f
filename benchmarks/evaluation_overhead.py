"""Whether `calibox eval` keeps a server as busy as the server's own benchmark does.

    python benchmarks/evaluation_overhead.py --bundle models --data bccd [--rounds 5] [--concurrency 8] [--json]

Segments alternate (A B A B): the light client of server_throughput.py on the same pictures, then `calibox eval`, each
in a process of its own beside the server; every evaluation is divided by the mean of its two neighbours. Both run on
the server's cores, so the client's own work counts. Other processes make a ratio worthless.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from server_throughput import client, server, spread

from calibox_core.layouts import DataLayout, open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of bundles to serve")
    parser.add_argument("--data", required=True, help="folder or name of a data set; its validation split is used")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a segment of the light client")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--serve", action="append", default=[], help="further options of calibox serve")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = open_dataset(options.data, DataLayout())
    images = [folder.images / entry["file_name"] for entry in folder.annotations("val")["images"]]
    # Patient, so that a slow machine times nothing out; quiet, because a line per request costs too.
    serve = ["--timeout-ms", "120000", "--log-level", "warning", *options.serve]
    with server(options.bundle, serve) as (_, port), tempfile.TemporaryDirectory() as scratch:
        light = [client(port, options.concurrency, options.seconds, images)["per_s"]]
        evaluated: list[dict[str, Any]] = []
        for _ in range(options.rounds):
            evaluated.append(evaluation(port, options, Path(scratch)))
            light.append(client(port, options.concurrency, options.seconds, images)["per_s"])
    speeds = [float(one["images_per_second"]) for one in evaluated]
    ratios = [speed * 2 / sum(light[n : n + 2]) for n, speed in enumerate(speeds)]
    found = {"ratios": ratios, "evaluation_per_s": speeds, "light_per_s": light, "AP": [one["AP"] for one in evaluated]}
    if options.json:
        print(json.dumps(found))
        return
    print(f"calibox eval: {spread(speeds)} images/s; the server's benchmark: {spread(light)}; ratio {spread(ratios)}")
    print(f"AP of every round: {', '.join(map(str, sorted(set(found['AP']))))}")


def evaluation(port: int, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """The summary of one `calibox eval`."""
    where = ["--server", f"http://127.0.0.1:{port}", "--data", options.data, "--output", str(scratch / "results.json")]
    command = [sys.executable, "-m", "calibox_core.cli", "eval", *where, "--concurrency", str(options.concurrency)]
    done = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()

"""What `--http-workers` costs: CPU per request and memory of a server of several processes beside one of one process.

    python benchmarks/http_workers.py --bundle models --images DIR [--workers 1,2] [--concurrency 32] [--rounds 9]

The servers run side by side and take turns. Other processes make times worthless; CPU per request holds up better.
"""

import argparse
import re
import statistics
from contextlib import ExitStack
from pathlib import Path

from server_throughput import client, cpu_of, pictures, processes_of, server, spread


def memory_of(pid: int) -> float:
    """Megabytes of a server's processes; what they share counts once."""
    texts = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in processes_of(pid)]
    return sum(int(found[1]) for text in texts if (found := re.search(r"^Pss: +(\d+)", text, re.MULTILINE))) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True, help="folder of bundles")
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures to send")
    parser.add_argument("--workers", type=lambda text: text.split(","), default=["1", "2"])
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each segment")
    asked = parser.parse_args()
    images = pictures(asked.images)
    with ExitStack() as stack:
        options = {count: ["--http-workers", count, "--log-level", "warning"] for count in asked.workers}
        served = {count: stack.enter_context(server(asked.bundle, options[count])) for count in asked.workers}
        found: dict[str, list[tuple[float, dict[str, float]]]] = {count: [] for count in served}
        for _ in range(asked.rounds):
            for count, (pid, port) in served.items():
                before = cpu_of(pid)
                answered = client(port, asked.concurrency, asked.seconds, images)
                found[count].append(((cpu_of(pid) - before) * 1e3 / answered["all"], answered))
        print("| HTTP workers | CPU ms per request | requests/s | p99 / p50 | memory MB | errors |")
        print("|---|---|---|---|---|---|")
        for count, rows in found.items():
            cells = (
                count,
                spread([cpu for cpu, _ in rows]),
                spread([row["per_s"] for _, row in rows], "{:.0f}"),
                f"{statistics.median(row['p99_ms'] / row['p50_ms'] for _, row in rows):.1f}",
                f"{memory_of(served[count][0]):.0f}",
                str(sum(int(row["errors"]) for _, row in rows)),
            )
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

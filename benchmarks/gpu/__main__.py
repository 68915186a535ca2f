"""Runs the chosen steps one by one, each in a process of its own: an error on a device leaves nothing usable behind."""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.report import Report
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps import GROUPS, STEPS


def main() -> int:
    """0 when every step passed or had nothing to do here."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    report = Report(options.folder, host=options.host)
    for name in _chosen(options.steps):
        print(f"{name} ...", end=" ", flush=True)
        outcome = _run(name, Setup(host=options.host, build=options.build.resolve()))
        report.add(name, outcome)
        print(f"{outcome.status} in {outcome.seconds:.0f} s{': ' if outcome.why else ''}{outcome.why}", flush=True)
    print(f"{options.folder / 'results.md'}")
    return 1 if report.failed() else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/gpu/run.sh", description=__doc__)
    parser.add_argument("folder", type=Path, help="where results.md and results.json come to lie")
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join((*GROUPS, *STEPS))}; all without a name")
    parser.add_argument("--host", action="store_true", help="on the CPU, small: proves the script, measures nothing")
    build = Path(__file__).parents[2] / "trt_plugins" / "build" / "script"
    parser.add_argument("--build", type=Path, default=build, help="where the libraries are built [%(default)s]")
    options = parser.parse_intermixed_args()
    unknown = set(options.steps) - {*GROUPS, *STEPS}
    if unknown:
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join((*GROUPS, *STEPS))}")
    return options


def _chosen(words: list[str]) -> list[str]:
    """Steps in their own order, each once."""
    wanted = {step for word in words or STEPS for step in GROUPS.get(word, (word,))}
    return [name for name in STEPS if name in wanted]


def _run(name: str, setup: Setup) -> Outcome:
    """A step in a process of its own; what it had found before it failed is kept."""
    # A machine without a GPU may be busy with other work; nothing there depends on the limit.
    started, limit = time.monotonic(), STEPS[name].seconds_at_most * setup.pick(1, 10)
    with tempfile.TemporaryDirectory() as work:
        part = Path(work) / "outcome.json"
        command = [sys.executable, "-m", "benchmarks.gpu.steps", name, str(part), str(setup.build), str(setup.host)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)
            failure = done.stderr.strip()[-2000:] if done.returncode != 0 else ""
        except subprocess.TimeoutExpired:
            failure = f"It ran longer than {limit} s."
        outcome = Outcome.read(part) if part.exists() else Outcome("failed", "It ended without a word.")
    if failure:
        outcome.status, outcome.why = "failed", failure
    outcome.seconds = time.monotonic() - started
    return outcome


if __name__ == "__main__":
    sys.exit(main())

"""Proves what a server must bear, step by step, and writes a page about it.

    python -m benchmarks.soak [STEP ...] [--bundle DIR] [--images DIR] [--serve=OPTION ...] [--page PAGE]

Without --bundle a small seeded network is served, so fast that the server and not the engine is what works.
"""

import argparse
import importlib
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.soak.findings import Findings, put_section
from benchmarks.soak.setup import Setup
from calibox_server.options import available_cores
from tests.support.bundles import make_tiny_bundle

ROOT = Path(__file__).parents[2]
STEPS = ("load", "fuzz", "schema", "bombs", "memory", "lifecycle", "kills")
INTRODUCTION = """# Soak

What [the soak page](../soak.md) explains, as its commands wrote it; every section names its command and when it ran."""


def main() -> int:
    """0 when everything held."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server under test ends, too
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        models = options.bundle or make_tiny_bundle(scratch / "models")
        setup = Setup(models, scratch, tuple(options.serve), options.images, goodput=options.goodput)
        for name in options.steps or STEPS:
            print(f"{name} ...", flush=True)
            findings = _run(name, setup)
            print("\n".join([*findings.sentences, *(f"NOT HELD: {line}" for line in findings.failed)]), flush=True)
            failed |= bool(findings.failed)
            title = f"{name}: {setup.bundle.manifest.name}{' ' if options.serve else ''}{' '.join(options.serve)}"
            put_section(options.page, INTRODUCTION, title, findings.text())
    return 1 if failed else 0


def _run(name: str, setup: Setup) -> Findings:
    findings, started = Findings(), time.monotonic()
    try:
        importlib.import_module(f"benchmarks.soak.{name}").prove(setup, findings)
    except Exception:  # the other steps go on
        findings.must("the step ended well", False, found=traceback.format_exc()[-1500:], wanted="no exception")
    findings.sentences.insert(0, _circumstances(name, time.monotonic() - started))
    return findings


def _circumstances(name: str, seconds: float) -> str:
    words = sys.argv[1:]
    command = shlex.join(["python", "-m", "benchmarks.soak", name, *(w for w in words if w not in STEPS)])
    commit = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"`{command}`, commit {commit or 'unknown'}, {datetime.now(UTC):%Y-%m-%d}, {available_cores()} cores of "
        f"{platform.machine()}, Python {platform.python_version()}, {seconds:.0f} s."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("steps", nargs="*", metavar="step", help=f"{', '.join(STEPS)}; all without a name")
    parser.add_argument("--bundle", type=Path, help="folder of the one bundle that is served")
    parser.add_argument("--images", type=Path, help="folder of JPEG files to send in `load`")
    parser.add_argument("--serve", action="append", default=[], help="an option of calibox serve, as --serve=--tune")
    parser.add_argument("--goodput", type=float, default=0.95, help="least share of capacity at twice the load")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results" / "soak.md", help="[%(default)s]")
    options = parser.parse_intermixed_args()
    if unknown := set(options.steps) - set(STEPS):
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())

"""Weighs, starts and asks images that docker/rootless-build.sh has built, and writes a page about them.

    python -m benchmarks.images [--work FOLDER] [--page PAGE] [TARGET ...]

It wants root and Debian's bubblewrap. The server of `cpu` is asked on 127.0.0.1, one of this checkout beside it.
"""

import argparse
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.images.confined import Image
from benchmarks.images.serving import prove_eval, prove_serving
from benchmarks.images.sizes import compressed_megabytes, largest, megabytes
from benchmarks.soak.findings import Findings, put_section
from calibox_server.options import available_cores

ROOT = Path(__file__).parents[2]
WORK = Path("/var/tmp/calibox-images")  # as docker/rootless-build.sh has it
AIM_MB = {"cpu": 400.0}  # what the images were designed for
PROOFS = {"cpu": prove_serving, "eval": prove_eval}
INTRODUCTION = """# Images

What [the deployment page](../deployment.md#without-a-container-engine) builds by `docker/rootless-build.sh`, as it was
found. The base is a Debian that debootstrap made, in place of `python:3.12-slim-bookworm`: sizes and Python's version
are those of this build, not of one by Docker."""


def main() -> int:
    """0 when everything held."""
    options = _options()
    failed = False
    for target in options.targets or PROOFS:
        folder = options.work / target
        if not (folder / "rootfs").is_dir():
            print(f"{target}: not built; docker/rootless-build.sh --work {options.work} {target}")
            failed |= bool(options.targets)
            continue
        findings, began = Findings(), time.monotonic()
        image = Image.read(folder)
        _weigh(target, image, findings)
        with tempfile.TemporaryDirectory() as scratch:
            PROOFS[target](image, Path(scratch), findings)
        findings.sentences.insert(0, _circumstances(image, time.monotonic() - began))
        print("\n".join([*findings.sentences, *(f"NOT HELD: {line}" for line in findings.failed)]), flush=True)
        failed |= bool(findings.failed)
        put_section(options.page, INTRODUCTION, target, findings.text())
    return int(failed)


def _weigh(target: str, image: Image, findings: Findings) -> None:
    whole, ours = megabytes(image.root), megabytes(image.root / "opt")
    rows = findings.table("Size, MB", "whole tree", "of it the base", "of it /opt", "as one tar.gz")
    rows.append([f"{x:.0f}" for x in (whole, whole - ours, ours, compressed_megabytes(image.root))])
    rows = findings.table("The largest packages, MB", "package", "with its libraries")
    (site,) = image.root.glob("opt/calibox/lib/python3*/site-packages")
    rows.extend([name, f"{size:.1f}"] for name, size in largest(site, 8))
    if target in AIM_MB:
        findings.must(
            "size of the tree, MB", whole <= AIM_MB[target], found=f"{whole:.0f}", wanted=f"<= {AIM_MB[target]:.0f}"
        )


def _circumstances(image: Image, seconds: float) -> str:
    command = shlex.join(["python", "-m", "benchmarks.images", *sys.argv[1:]])
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    inside = image.run(["python", "-c", "import platform; print(platform.python_version())"], {}, {}).output.strip()
    return (
        f"`{command}`, commit {commit or 'unknown'}, {datetime.now(UTC):%Y-%m-%d}, {available_cores()} cores of "
        f"{platform.machine()}, Python {inside} inside and {platform.python_version()} outside, {seconds:.0f} s."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", metavar="TARGET", help=f"{', '.join(PROOFS)}; without any, those that are built"
    )
    parser.add_argument("--work", type=Path, default=WORK, help="[%(default)s]")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results" / "images.md", help="[%(default)s]")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(PROOFS):
        parser.error(f"there is no target {', '.join(sorted(unknown))} here; there are {', '.join(PROOFS)}")
    return options


if __name__ == "__main__":
    sys.exit(main())

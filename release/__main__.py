"""Holds a checkout to what a release must be, and writes its bills of material.

python -m release check [--tag TAG] [--quick]
python -m release sbom [--output FOLDER] [--trees FOLDER] [IMAGE ...]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from release.artefacts import check_artefacts, check_relocked
from release.bom import write_bills
from release.checkout import IMAGES, ROOT, version
from release.checks import quick_findings


def main() -> int:
    """0 where nothing was found."""
    options = _options()
    if options.command == "sbom":
        return _told("bills of material", write_bills(ROOT, tuple(options.images), options.output, options.trees))
    wrong = sum(_told(name, found) for name, found in quick_findings(ROOT, options.tag).items())
    if not options.quick:
        with tempfile.TemporaryDirectory() as scratch:
            wrong += _told("sdist, wheel", list(check_artefacts(ROOT, Path(scratch) / "dist")))
            wrong += _told("locks made anew", list(check_relocked(ROOT, Path(scratch) / "locks")))
        if options.tag is not None:
            wrong += _told("nothing uncommitted", _uncommitted())
    sys.stdout.write(f"calibox {version(ROOT)}: {'not ' if wrong else ''}as a release must be\n")
    return min(wrong, 1)


def _told(name: str, found: list[str]) -> int:
    """Prints the outcome of one check; 1 where it found something."""
    sys.stdout.write(f"{'FAILED' if found else 'ok':6} {name}\n" + "".join(f"       {line}\n" for line in found))
    return int(bool(found))


def _uncommitted() -> list[str]:
    command = ["git", "status", "--porcelain"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m release")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="what must hold before a tag is set")
    check.add_argument("--tag", help="the tag that is to be released, as in v1.2.3; asks for a finished changelog")
    check.add_argument("--quick", action="store_true", help="without building, installing and locking")
    sbom = commands.add_parser("sbom", help="bills of material in CycloneDX 1.6, held against its schema")
    sbom.add_argument("--output", type=Path, default=ROOT / "build" / "sbom")
    sbom.add_argument("--trees", type=Path, help="folder of built images, IMAGE/rootfs each: adds Debian's packages")
    sbom.add_argument("images", nargs="*", default=list(IMAGES), choices=[*IMAGES, list(IMAGES)], metavar="IMAGE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

"""Quick checks of a checkout that is to be released. Each gives its findings as sentences, none where all is well."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.version import InvalidVersion, Version

from release import licences
from release.checkout import IMAGES, LOCKS, image_text, lock_text, pins, tracked, version

LARGEST_BYTES = 1_000_000  # as .pre-commit-config.yaml has it; the default bundle alone may be larger
# Where the version of the images is written out: a tag of theirs, or the default of a variable named VERSION.
_WRITTEN = re.compile(r"\bcalibox:(\d+\.\d+[\w.]*)|\bVERSION(?::-|=)(\d+\.\d+[\w.]*)")
_HEADING = re.compile(r"^## \[([^\]]+)\](.*)$", re.M)
_COMMIT = re.compile(r"\bcommits? (?:`?[0-9a-f]{7}|that add(?:s|ed) this page)", re.I)
_DATED = re.compile(r" - \d{4}-\d{2}-\d{2}")


def check_version(root: Path, tag: str | None = None) -> Iterator[str]:
    """One version, in every place where it is written, and in the tag."""
    wanted = version(root)
    try:
        spelled = str(Version(wanted))
    except InvalidVersion:
        spelled = ""
    if spelled != wanted:
        yield f"pyproject.toml: the version {wanted!r} is not spelled as PEP 440 spells it"
    if tag is not None and tag != f"v{wanted}":
        yield f"the tag is {tag}, and the version in pyproject.toml {wanted}: the tag must be v{wanted}"
    for path in tracked(root, "docker", "docs", "README.md", ".github"):
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for found in ("".join(hit) for hit in _WRITTEN.findall(line)):
                if found != wanted and not found.startswith(f"{wanted}-"):
                    yield f"{path.relative_to(root)}:{number}: says {found}; the version in pyproject.toml is {wanted}"


def check_changelog(root: Path, tag: str | None = None) -> Iterator[str]:
    """With a tag: a dated heading of the version, and nothing left under "Unreleased". Without: one of the two."""
    text = (root / "CHANGELOG.md").read_text()
    headings = {hit[1]: hit[2] for hit in _HEADING.finditer(text)}
    wanted = version(root)
    if wanted in headings and not _DATED.fullmatch(headings[wanted]):
        yield f"CHANGELOG.md: the heading of {wanted} has no date; write: ## [{wanted}] - YYYY-MM-DD"
    if tag is None:
        if wanted not in headings and "Unreleased" not in headings:
            yield f"CHANGELOG.md: neither a heading [{wanted}] nor [Unreleased]"
        return
    if wanted not in headings:
        yield f"CHANGELOG.md: no heading of the version; write: ## [{wanted}] - YYYY-MM-DD"
    if re.search(r"^- ", text.partition("## [Unreleased]")[2].partition("\n## ")[0], re.M):
        yield f"CHANGELOG.md: entries stand under [Unreleased] that belong under [{wanted}]"


def check_locks(root: Path) -> Iterator[str]:
    """The images have the versions that the tests passed with."""
    tested = pins((root / "constraints.txt").read_text())
    for name in LOCKS:
        for package, locked in pins(lock_text(root, name)).items():
            if tested.get(package, locked) != locked:
                told = f"constraints.txt has {tested[package]}: run `make locks`"
                yield f"docker/locks/{name}.txt: {package} is {locked}, and {told}"


def check_licences(root: Path) -> Iterator[str]:
    """What is in an image may be handed on; only the images for GPUs hold what is NVIDIA's own."""
    for image in IMAGES:
        for package in pins(image_text(root, image)):
            licence = licences.licence_of(package)
            if licence is None:
                yield f"image {image}: the licence of {package} is not known: see release/licences.py"
            elif not licences.may_be_in(image, licence):
                yield f"image {image}: {package} is under {licence}, which it may not hold"


def check_results(root: Path) -> Iterator[str]:
    """Every page of figures names the commit that they were measured at."""
    for path in sorted((root / "docs" / "results").glob("*.md")):
        if path.name != "README.md" and not _COMMIT.search(path.read_text()):
            yield f"{path.relative_to(root)}: names no commit"


def check_sizes(root: Path) -> Iterator[str]:
    """No file that does not belong into git."""
    for path in tracked(root):
        if path.stat().st_size > LARGEST_BYTES and path.relative_to(root).parts[0] != "models":
            megabytes = path.stat().st_size / 1e6
            yield f"{path.relative_to(root)}: {megabytes:.1f} MB; what is above 1 MB lies in models/ or not in git"


UNTAGGED: dict[str, Callable[[Path], Iterator[str]]] = {
    "packages of the images": check_locks,
    "licences": check_licences,
    "results": check_results,
    "sizes": check_sizes,
}
TAGGED: dict[str, Callable[[Path, str | None], Iterator[str]]] = {
    "version": check_version,
    "changelog": check_changelog,
}


def quick_findings(root: Path, tag: str | None = None) -> dict[str, list[str]]:
    """The findings of every quick check, by its name."""
    found = {name: list(check(root, tag)) for name, check in TAGGED.items()}
    return found | {name: list(check(root)) for name, check in UNTAGGED.items()}

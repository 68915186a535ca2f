"""The checkout as a release sees it: its version, the files that git knows, the packages of the images."""

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# The lock files that fill each image. A further one, `build`, holds what makes wheels, and is in no image.
IMAGES = {"cpu": ("cpu", "opencv"), "eval": ("eval", "opencv"), "gpu": ("gpu",), "train": ("train",)}
LOCKS = ("build", *sorted({name for names in IMAGES.values() for name in names}))


def project(root: Path) -> dict[str, Any]:
    """The table ``project`` of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return table


def version(root: Path) -> str:
    """The version of the checkout. It stands in pyproject.toml; every other place repeats it or asks the package."""
    return str(project(root)["version"])


def pins(text: str) -> dict[str, str]:
    """Version of each package, by canonical name, in a text of lines ``name==version``."""
    return {canonicalize_name(name): is_at for name, is_at in re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.M)}


def lock_text(root: Path, name: str) -> str:
    """A file of docker/locks."""
    return (root / "docker" / "locks" / f"{name}.txt").read_text()


def image_text(root: Path, image: str) -> str:
    """All that is locked for an image."""
    return "".join(lock_text(root, name) for name in IMAGES[image])


def tracked(root: Path, *below: str) -> list[Path]:
    """Files that git knows, or would add, and that are there; those below some folders only, if any is named."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *below]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    return [root / name for name in sorted(set(listed.split("\0"))) if name and (root / name).is_file()]

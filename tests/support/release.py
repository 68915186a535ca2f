"""A small checkout that is as a release must be, to put faults into; and wheels without a file."""

import subprocess
import zipfile
from dataclasses import dataclass
from pathlib import Path

from release.checkout import LOCKS


@dataclass(frozen=True)
class Checkout:
    """A folder under git."""

    root: Path

    @classmethod
    def make(cls, root: Path, *, version: str) -> "Checkout":
        """With all that the quick checks read, in a state that may be tagged."""
        made = cls(root)
        subprocess.run(["git", "init", "--quiet", root], check=True)
        made.write("pyproject.toml", f'[project]\nname = "calibox"\nversion = "{version}"\nlicense = "Apache-2.0"\n')
        made.write("CHANGELOG.md", f"# Changelog\n\n## [{version}] - 2026-01-02\n\n- A thing.\n")
        made.write("constraints.txt", "")
        made.write("docker/compose.yaml", f"image: calibox:${{VERSION:-{version}}}-cpu\n")
        made.write("docs/results/speed.md", "# Speed\n\nMeasured at commit 0123abc.\n")
        for name in LOCKS:
            made.write(f"docker/locks/{name}.txt", "")
        return made

    def write(self, path: str, text: str) -> None:
        """A file in place of one that may be there."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)


def without(wheel: Path, name: str, folder: Path) -> Path:
    """A copy of a wheel in ``folder`` that lacks one file, of the same name."""
    copy = folder / wheel.name
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(copy, "w") as less:
        assert name in whole.namelist()
        for entry in whole.infolist():
            if entry.filename != name:
                less.writestr(entry, whole.read(entry))
    return copy

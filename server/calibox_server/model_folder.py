"""What lies in a model repository, looked at from outside: cheap enough to be done every few seconds."""

from dataclasses import dataclass
from pathlib import Path

from calibox_core.bundle import MANIFEST_FILE, MODEL_FILE, find_bundles, read_manifest
from calibox_core.engines import ENGINES_FOLDER, RECORD_FILE
from calibox_core.errors import BundleError

Stamp = tuple[str, int, int, int]  # of a file: name, time of change in ns, bytes, inode


@dataclass(frozen=True, slots=True)
class Place:
    """A bundle's folder. Two are equal while nothing in it has changed."""

    folder: Path
    name: str  # as its manifest says, or as the folders are called where that cannot be read
    version: str
    stamps: tuple[Stamp, ...]
    twin: str = ""  # the name/version that it shares with a bundle before it, which is served instead

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version


def look(root: Path) -> list[Place]:
    """Every bundle below ``root``, by name and version; blocks."""
    places: list[Place] = []
    taken: set[tuple[str, str]] = set()
    for folder in find_bundles(root):
        name, version, twin = folder.parent.name, folder.name, ""
        try:
            manifest = read_manifest(folder)
        except BundleError:  # whoever loads it says why
            pass
        else:
            name, version = manifest.name, manifest.version
        if (name, version) in taken:
            name, version, twin = folder.parent.name, folder.name, f"{name}/{version}"
        taken.add((name, version))
        places.append(Place(folder, name, version, _stamps(folder), twin))
    return places


def _stamps(folder: Path) -> tuple[Stamp, ...]:
    """Of the files that tell when a bundle or one of its engines was written; absent ones are left out."""
    files = [folder / MANIFEST_FILE, folder / MODEL_FILE, *sorted(folder.glob(f"{ENGINES_FOLDER}/*/*/{RECORD_FILE}"))]
    stamps = []
    for file in files:
        try:
            known = file.stat()
        except OSError:
            continue
        stamps.append((str(file.relative_to(folder)), known.st_mtime_ns, known.st_size, known.st_ino))
    return tuple(stamps)

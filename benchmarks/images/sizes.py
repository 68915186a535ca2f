"""What a tree weighs: as files, and as the compressed layer that a registry would hold."""

import subprocess
from pathlib import Path

MEGABYTE = 1e6  # as `docker image ls` counts


def megabytes(folder: Path) -> float:
    """Bytes of the regular files below a folder, each inode once, links not followed."""
    seen: set[int] = set()
    total = 0
    for path in folder.rglob("*"):
        state = path.lstat()
        if path.is_file() and not path.is_symlink() and state.st_ino not in seen:
            seen.add(state.st_ino)
            total += state.st_size
    return total / MEGABYTE


def compressed_megabytes(folder: Path) -> float:
    """Of one tar of the folder through gzip, as `docker push` would send it."""
    with subprocess.Popen(["tar", "--create", "--numeric-owner", "."], cwd=folder, stdout=subprocess.PIPE) as tar:
        packed = subprocess.run(["gzip", "-6"], stdin=tar.stdout, capture_output=True, check=True).stdout
    return len(packed) / MEGABYTE


def largest(site_packages: Path, count: int) -> list[tuple[str, float]]:
    """Name and size of the largest packages, a package and its bundled libraries together."""
    sizes: dict[str, float] = {}
    for entry in site_packages.iterdir():
        name = entry.name.removesuffix(".libs")
        sizes[name] = sizes.get(name, 0.0) + (megabytes(entry) if entry.is_dir() else entry.stat().st_size / MEGABYTE)
    return sorted(sizes.items(), key=lambda pair: -pair[1])[:count]

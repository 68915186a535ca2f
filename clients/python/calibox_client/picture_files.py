"""Which image files a command line names, and where their drawn copies go."""

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
# Formats that drawn copies keep; others become PNG, which every viewer opens and which loses nothing.
_KEPT = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
_JPEG_QUALITY = 92  # letters stay crisp


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An image file, and its name below the folder or pattern it was found by."""

    path: Path
    name: Path


def find_pictures(arguments: Iterable[str]) -> tuple[list[PictureFile], list[str]]:
    """Files as given, the images that lie directly in folders, and the images that patterns match, in that order.

    Returns: the pictures, each once, and a sentence for each argument that names none.
    """
    found: dict[Path, PictureFile] = {}
    unknown = []
    for argument in arguments:
        pictures = _expand(argument)
        found.update({p.path.resolve(): p for p in pictures if p.path.resolve() not in found})
        if not pictures:
            unknown.append(
                f"{argument} names no image: neither a file, nor a folder or pattern with {', '.join(sorted(SUFFIXES))}"
            )
    return list(found.values()), unknown


def plan_copies(pictures: Sequence[PictureFile], folder: Path) -> dict[Path, Path]:
    """Where each picture's drawn copy goes, by the picture's path.

    Raises:
        ValueError: a copy would overwrite a source, or two pictures share a name.
    """
    sources = {picture.path.resolve() for picture in pictures}
    plan: dict[Path, Path] = {}
    owners: dict[Path, Path] = {}
    for picture in pictures:
        name = picture.name if picture.name.suffix.lower() in _KEPT else picture.name.with_suffix(".png")
        target = folder / name
        if target.resolve() in sources:
            raise ValueError(f"--save {folder} would overwrite the image {target}; choose another folder")
        if target in owners:
            raise ValueError(f"{owners[target]} and {picture.path} would both be saved as {target}; save them apart")
        owners[target], plan[picture.path] = picture.path, target
    return plan


def save_whole(picture: Image.Image, target: Path) -> None:
    """Writes a picture whole or not at all, in the format of its suffix."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.part")
    try:
        picture.save(scratch, _KEPT[target.suffix.lower()], quality=_JPEG_QUALITY)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def _expand(argument: str) -> list[PictureFile]:
    path = Path(argument)
    if path.is_file():
        return [PictureFile(path, Path(path.name))]
    matches = path.iterdir() if path.is_dir() else map(Path, glob.iglob(argument, recursive=True))  # noqa: PTH207
    # (Path.glob takes no absolute patterns.)
    pictures = (match for match in matches if match.suffix.lower() in SUFFIXES and match.is_file())
    return [PictureFile(match, Path(match.name)) for match in sorted(pictures)]

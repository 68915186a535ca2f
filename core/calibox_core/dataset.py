"""Where data lie, what every layout answers, and the halves that choosing and reporting use."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from calibox_core.errors import DatasetError, ImageError, TruncatedImageError
from calibox_core.images import ImageHeader, read_header

DATA_VARIABLE = "CALIBOX_DATA"
Split = Literal["train", "val"]


# Sizes stand in the first bytes of a file, unless long metadata come before them.
_HEADER_BYTES = 1 << 16


class DataFolder(Protocol):
    """A data set in any layout, as training, evaluation and verification read it."""

    @property
    def root(self) -> Path:
        """The folder that was named."""

    @property
    def images(self) -> Path:
        """The folder that the file names of `annotations` are relative to."""

    def annotations(self, split: Split) -> dict[str, Any]:
        """A split as a COCO document; what is to be ignored is a crowd region there."""

    def annotation_files(self, split: Split) -> list[Path]:
        """The files that `annotations` is read from."""

    def image_count(self, split: Split) -> int:
        """Number of images of a split."""

    def source(self, split: Split) -> str:
        """What to name in messages about the split."""


@dataclass(frozen=True, slots=True)
class CocoFolder:
    """A folder with ``images/`` and ``instances_<split>.json``."""

    root: Path

    @property
    def images(self) -> Path:
        """The folder of pictures."""
        return self.root / "images"

    def annotations_path(self, split: Split) -> Path:
        """The annotation file of a split."""
        return self.root / f"instances_{split}.json"

    def annotations(self, split: Split) -> dict[str, Any]:
        """The annotation document of a split."""
        return read_annotations(self.annotations_path(split))

    def annotation_files(self, split: Split) -> list[Path]:
        """The one annotation file of a split."""
        return [self.annotations_path(split)]

    def image_count(self, split: Split) -> int:
        """Number of images that the annotation file lists."""
        return len(self.annotations(split)["images"])

    def source(self, split: Split) -> str:
        """The path of the annotation file."""
        return str(self.annotations_path(split))


def find_dataset(name_or_path: str) -> CocoFolder:
    """A data set in the flat layout by its folder, or by its name below the folder that `CALIBOX_DATA` names.

    Raises:
        DatasetError: neither exists; the text says where it was looked for and what a data set must hold.
    """
    places = places_of(name_or_path)
    for place in places:
        if (place / "images").is_dir():
            return CocoFolder(place)
    looked = ", ".join(str(place) for place in places)
    raise DatasetError(
        f"no data set in {looked}: expected a folder with images/, instances_train.json and instances_val.json, or "
        "COCO 2017's annotations/, train2017/ and val2017/ from https://cocodataset.org/#download "
        f"(name it with --data, or set {DATA_VARIABLE} to the folder above it)"
    )


def places_of(name_or_path: str) -> list[Path]:
    """Where a data set may lie: the path itself, then the name below the folder of `CALIBOX_DATA`."""
    places = [Path(name_or_path)]
    if DATA_VARIABLE in os.environ:
        places.append(Path(os.environ[DATA_VARIABLE]) / name_or_path)
    return places


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image file, upright, without decoding it.

    Raises:
        DatasetError: it is missing or no image.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_HEADER_BYTES)
            try:
                header = read_header(data)
            except TruncatedImageError:
                header = read_header(data + stream.read())
    except (OSError, ImageError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return _upright_size(header)


def _upright_size(header: ImageHeader) -> tuple[int, int]:
    turned = header.orientation >= 5  # EXIF: 5 to 8 swap the sides
    return (header.height, header.width) if turned else (header.width, header.height)


def read_annotations(path: Path) -> dict[str, Any]:
    """A COCO annotation file.

    Raises:
        DatasetError: absent, not JSON, or without images, annotations and categories.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as COCO annotations: {error}") from error
    lacking = [
        key for key in ("images", "annotations", "categories") if not isinstance(document, dict) or key not in document
    ]
    if lacking:
        raise DatasetError(f"{path} is not a COCO annotation file: it lacks {', '.join(lacking)}")
    whole: dict[str, Any] = document
    return whole


def calibration_and_test_ids(image_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Images at even and at odd positions by id: whatever is chosen is chosen on the first, reported on the second."""
    ordered = sorted(image_ids)
    return ordered[0::2], ordered[1::2]

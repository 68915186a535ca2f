"""Where COCO-format data lie, and the halves that choosing and reporting use."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from calibox_core.errors import DatasetError

DATA_VARIABLE = "CALIBOX_DATA"
Split = Literal["train", "val"]


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


def find_dataset(name_or_path: str) -> CocoFolder:
    """A data set by its folder, or by its name below the folder that `CALIBOX_DATA` names.

    Raises:
        DatasetError: neither exists; the text says where it was looked for and what a data set must hold.
    """
    places = [Path(name_or_path)]
    if DATA_VARIABLE in os.environ:
        places.append(Path(os.environ[DATA_VARIABLE]) / name_or_path)
    for place in places:
        if (place / "images").is_dir():
            return CocoFolder(place)
    looked = ", ".join(str(place) for place in places)
    raise DatasetError(
        f"no data set in {looked}: expected a folder with images/, instances_train.json and instances_val.json "
        f"(name it with --data, or set {DATA_VARIABLE} to the folder above it)"
    )


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

"""First stage: which images there are to ask about."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from calibox_client.evaluation.choices import Half
from calibox_client.evaluation.errors import EvaluationError
from calibox_core.dataset import calibration_and_test_ids

_SHOWN = 3  # examples in a message; more hide the sentence


@dataclass(frozen=True, slots=True)
class WorkItem:
    """One image to ask about."""

    image_id: int
    path: Path


def read_work(annotations: Mapping[str, Any], images: Path, half: Half) -> list[WorkItem]:
    """The images of a COCO annotation document, ordered by id.

    Args:
        annotations: the document.
        images: folder that its ``file_name`` entries are relative to; they may name subfolders.
        half: all of them, or those at even or odd positions by id.

    Raises:
        EvaluationError: no images, repeated ids, names that leave ``images``, or files that are not there.
    """
    paths = {entry["id"]: _path_inside(images, str(entry["file_name"])) for entry in annotations["images"]}
    if not paths:
        raise EvaluationError("the annotations list no images")
    if len(paths) != len(annotations["images"]):
        raise EvaluationError("the annotations list an image id more than once; ids must be unique")
    chosen = half_of(list(paths), half)
    missing = [paths[image_id] for image_id in chosen if not paths[image_id].is_file()]
    if missing:
        shown = ", ".join(str(path) for path in missing[:_SHOWN])
        raise EvaluationError(
            f"{len(missing)} of {len(chosen)} annotated images are not there, for example {shown}; "
            f"is {images} the folder that file_name is relative to?"
        )
    return [WorkItem(image_id, paths[image_id]) for image_id in chosen]


def half_of(image_ids: Sequence[int], half: Half) -> list[int]:
    """The images of a half, or all of them, by id."""
    calibration, test = calibration_and_test_ids(image_ids)
    return {Half.ALL: sorted(image_ids), Half.CALIBRATION: calibration, Half.TEST: test}[half]


def hash_of_images(annotations: Mapping[str, Any]) -> str:
    """Hex sha256 over ids and file names, so that answers are never taken for those of another data set."""
    pairs = sorted((entry["id"], entry["file_name"]) for entry in annotations["images"])
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _path_inside(folder: Path, file_name: str) -> Path:
    name = PurePosixPath(file_name)
    if not file_name or name.is_absolute() or ".." in name.parts or "\\" in file_name:
        raise EvaluationError(f"the annotations name the file {file_name!r}, which leaves {folder}; it is not read")
    return folder / name

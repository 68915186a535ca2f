"""KITTI object detection (2D boxes of cars) in its official layout, one label file at a time.

``training/image_2/<id>.png`` and ``training/label_2/<id>.txt``; the test images carry no labels, so both splits come
from ``training``, by lists of ids or by a fraction. Boxes are continuous pixels from 0, as written.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from calibox_core.dataset import Split, image_size
from calibox_core.errors import DatasetError
from calibox_core.voc import FORMAT_KEY

CAR = "Car"
NEIGHBOUR = "Van"  # neither a miss nor a mistake when it is taken for a car
DONT_CARE = "DontCare"  # regions with unlabelled objects
_COLUMNS = 15  # type, truncated, occluded, alpha, box (4), dimensions (3), location (3), rotation_y
WHERE_TO_GET = (
    "get data_object_image_2.zip and data_object_label_2.zip from "
    "https://www.cvlibs.net/datasets/kitti/eval_object.php?obj_benchmark=2d (registration is needed) and unpack both "
    "into one folder"
)


class KittiSplits(BaseModel):
    """How the labelled images are divided: two files of ids, or the last part by id for validation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: str | None = Field(default=None, description="File of ids, one a line, below the data set's folder.")
    val: str | None = Field(default=None, description="The same for validation.")
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Without files: the share of the images, the last by id, that validate."
    )

    @model_validator(mode="after")
    def _both_or_none(self) -> Self:
        if (self.train is None) != (self.val is None):
            raise ValueError("train and val are given together, or neither and val_fraction divides the images")
        return self


@dataclass(frozen=True, slots=True)
class KittiObject:
    """One line of a label file."""

    kind: str
    truncated: float  # 0..1; -1 for DontCare
    occluded: int  # 0 visible, 1 partly, 2 largely, 3 unknown; -1 for DontCare
    box: tuple[float, float, float, float]  # x1, y1, x2, y2


@dataclass(frozen=True, slots=True)
class KittiFolder:
    """The folder that holds ``training/``, and how it is divided."""

    root: Path
    splits: KittiSplits

    @property
    def images(self) -> Path:
        """``training/image_2``."""
        return self.root / "training" / "image_2"

    def source(self, split: Split) -> str:
        """The list of ids, or the label folder and the share."""
        file = self._list(split)
        return str(file) if file else f"{self._labels} ({split} part, val_fraction {self.splits.val_fraction:g})"

    def image_count(self, split: Split) -> int:
        """Number of ids of the split."""
        return len(self._ids(split))

    def annotation_files(self, split: Split) -> list[Path]:
        """The list of ids where there is one, and the label files."""
        file = self._list(split)
        return [*([file] if file else []), *(self._label(name) for name in self._ids(split))]

    def annotations(self, split: Split) -> dict[str, Any]:
        """Cars as objects of a COCO document; Van and DontCare as crowd regions, other types as background.

        Each annotation keeps ``kitti_type``, ``truncated`` and ``occluded`` for KITTI's own metric.

        Raises:
            DatasetError: a list, a label file or an image is missing or malformed.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name, objects in self._labelled(split):
            width, height = _size(self.images / f"{name}.png")
            images.append({"id": len(images) + 1, "file_name": f"{name}.png", "width": width, "height": height})
            annotations += [_annotation(len(annotations) + n, len(images), found) for n, found in enumerate(objects, 1)]
        return {
            "info": {FORMAT_KEY: "kitti"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": CAR}],
        }

    @property
    def _labels(self) -> Path:
        return self.root / "training" / "label_2"

    def _label(self, name: str) -> Path:
        return self._labels / f"{name}.txt"

    def _list(self, split: Split) -> Path | None:
        file = self.splits.train if split == "train" else self.splits.val
        return None if file is None else self.root / file

    def _labelled(self, split: Split) -> Iterator[tuple[str, list[KittiObject]]]:
        """Id and evaluated objects of each image."""
        for name in self._ids(split):
            found = read_kitti_objects(self._label(name))
            yield name, [o for o in found if o.kind in (CAR, NEIGHBOUR, DONT_CARE)]

    def _ids(self, split: Split) -> list[str]:
        file = self._list(split)
        names = _share(self._labels, split, self.splits.val_fraction) if file is None else _listed(file)
        if not names:
            raise DatasetError(f"{self.source(split)} lists no images: the split is empty")
        return names


def find_kitti(place: Path) -> Path | None:
    """The place itself where it holds ``training/label_2`` or ``training/image_2``, else None."""
    training = place / "training"
    return place if (training / "label_2").is_dir() or (training / "image_2").is_dir() else None


def read_kitti_objects(path: Path) -> list[KittiObject]:
    """The objects of one label file, of every type.

    Raises:
        DatasetError: missing, or a line (named) without 15 columns or with an unsound box.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; {WHERE_TO_GET}") from error
    return [_object(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]


def _object(line: str, where: str) -> KittiObject:
    kind, *rest = line.split()
    if len(rest) != _COLUMNS - 1:
        raise DatasetError(f"{where} has {len(rest) + 1} columns; expected {_COLUMNS}")
    try:
        numbers = [float(value) for value in rest]
        occluded = int(rest[1])
    except ValueError as error:
        raise DatasetError(f"{where} ({kind}) holds a column that is no number: {error}") from error
    x1, y1, x2, y2 = numbers[3:7]
    if not all(math.isfinite(value) for value in (numbers[0], x1, y1, x2, y2)):
        raise DatasetError(f"{where} ({kind}) holds a number that is not finite")
    if x2 < x1 or y2 < y1:
        raise DatasetError(f"{where} ({kind}) has the box {x1:g}, {y1:g}, {x2:g}, {y2:g}, which is inverted")
    return KittiObject(kind, numbers[0], occluded, (x1, y1, x2, y2))


def _annotation(number: int, image_id: int, found: KittiObject) -> dict[str, Any]:
    x1, y1, x2, y2 = found.box
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": int(found.kind != CAR),
        "kitti_type": found.kind,
        "truncated": found.truncated,
        "occluded": found.occluded,
    }


def _listed(path: Path) -> list[str]:
    try:
        names = path.read_text().split()
    except OSError as error:
        raise DatasetError(
            f"{path} cannot be read: {error.strerror}; it lists the ids of a split, one a line, and is not part of "
            "KITTI: name another in data.kitti, or none and divide by val_fraction"
        ) from error
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise DatasetError(f"{path} lists {repeated[0]} more than once")
    return names


def _share(labels: Path, split: Split, val_fraction: float) -> list[str]:
    names = sorted(path.stem for path in labels.glob("*.txt"))
    if not names:
        raise DatasetError(f"{labels} holds no label files; {WHERE_TO_GET}")
    first = len(names) - math.floor(len(names) * val_fraction + 0.5)
    return names[:first] if split == "train" else names[first:]


def _size(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise DatasetError(f"{path} is missing; {WHERE_TO_GET}")
    return image_size(path)

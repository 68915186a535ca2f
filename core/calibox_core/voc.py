"""PASCAL VOC detection in its official layout, one XML file at a time.

``VOCdevkit/VOC<year>/`` holds ``ImageSets/Main/<split>.txt``, ``JPEGImages/<id>.jpg`` and ``Annotations/<id>.xml``.
VOC counts pixels from 1 and includes the last, so 1-based ``xmin..xmax`` is the continuous span ``xmin - 1 .. xmax``.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict, Field

from calibox_core.dataset import Split, image_size
from calibox_core.errors import DatasetError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
WHERE_TO_GET = (
    "get VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2007/ "
    "and VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012/ and unpack them into one "
    "folder (the annotations of VOC2012's test split are not public)"
)
FORMAT_KEY = "calibox_format"  # in a document's `info`: which metric of its own the data set has

Part = tuple[Annotated[int, Field(ge=2005, le=2012)], Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]]


class VocSplits(BaseModel):
    """Which lists of which years make the two splits; by default 07+12 against the test of 2007."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: tuple[Part, ...] = Field(
        default=((2007, "trainval"), (2012, "trainval")), min_length=1, description="(year, list) pairs."
    )
    val: tuple[Part, ...] = Field(default=((2007, "test"),), min_length=1, description="(year, list) pairs.")
    classes: tuple[str, ...] = Field(
        default=VOC_CLASSES, min_length=1, description="Object names in the order of labels, for data in VOC's form."
    )


@dataclass(frozen=True, slots=True)
class VocObject:
    """One annotated object."""

    name: str
    box: tuple[float, float, float, float]  # x1, y1, x2, y2, continuous, from 0
    difficult: bool


@dataclass(frozen=True, slots=True)
class VocFolder:
    """A ``VOCdevkit`` folder and the lists that are used."""

    root: Path
    splits: VocSplits

    @property
    def images(self) -> Path:
        """File names begin with the year's folder."""
        return self.root

    def parts(self, split: Split) -> tuple[Part, ...]:
        """The (year, list) pairs of a split."""
        return self.splits.train if split == "train" else self.splits.val

    def source(self, split: Split) -> str:
        """The lists of the split."""
        return ", ".join(str(_list_path(self.root, part)) for part in self.parts(split))

    def image_count(self, split: Split) -> int:
        """Number of ids in the lists."""
        return sum(len(_ids(self.root, part)) for part in self.parts(split))

    def annotation_files(self, split: Split) -> list[Path]:
        """The lists, and the XML files of their ids."""
        parts = self.parts(split)
        lists = [_list_path(self.root, part) for part in parts]
        return lists + [_xml_path(self.root, part, name) for part in parts for name in _ids(self.root, part)]

    def annotations(self, split: Split) -> dict[str, Any]:
        """A split as a COCO document.

        Difficult objects are crowd regions there, so that training and COCO metrics forgive what lies on them, and
        keep their flag ``difficult`` for VOC's own metric.

        Raises:
            DatasetError: a list, an XML file or an image is missing or malformed.
        """
        category_of = {name: number for number, name in enumerate(self.splits.classes, 1)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for file_name, xml in self._files(split):
            width, height = _size(self.root / file_name)
            images.append({"id": len(images) + 1, "file_name": file_name, "width": width, "height": height})
            for number, found in enumerate(read_voc_objects(xml), 1):
                if found.name not in category_of:
                    raise DatasetError(
                        f"{xml}: object {number} is a {found.name!r}, which is not among the classes "
                        f"{', '.join(category_of)}"
                    )
                annotations.append(_annotation(len(annotations) + 1, len(images), category_of[found.name], found))
        return {
            "info": {FORMAT_KEY: "voc"},
            "images": images,
            "annotations": annotations,
            "categories": [{"id": number, "name": name} for name, number in category_of.items()],
        }

    def _files(self, split: Split) -> Iterator[tuple[str, Path]]:
        """Image name below the root, and XML file."""
        for part in self.parts(split):
            for name in _ids(self.root, part):
                yield f"VOC{part[0]}/JPEGImages/{name}.jpg", _xml_path(self.root, part, name)


def find_voc(place: Path) -> Path | None:
    """The ``VOCdevkit`` folder at or below a place, None where there is none."""
    for root in (place, place / "VOCdevkit"):
        if any(path.is_dir() for path in root.glob("VOC20[01][0-9]")):
            return root
    return None


def read_voc_objects(path: Path) -> list[VocObject]:
    """The objects of one annotation file.

    Raises:
        DatasetError: missing, no whole XML (with line and column), or an object without name or sound box.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; {WHERE_TO_GET}") from error
    except ElementTree.ParseError as error:
        line, column = error.position
        raise DatasetError(f"{path} is truncated or no XML, at line {line}, column {column}: {error}") from error
    return [_object(element, f"{path}: object {n}") for n, element in enumerate(root.findall("object"), 1)]


def _object(element: ElementTree.Element, where: str) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DatasetError(f"{where} has no name")
    xmin, ymin, xmax, ymax = (_corner(element, side, where) for side in ("xmin", "ymin", "xmax", "ymax"))
    if xmax < xmin or ymax < ymin:
        raise DatasetError(f"{where} ({name}) has the box {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}, which is inverted")
    difficult = (element.findtext("difficult") or "0").strip()
    if difficult not in ("0", "1"):
        raise DatasetError(f"{where} ({name}) has {difficult!r} for difficult; expected 0 or 1")
    return VocObject(name, (xmin - 1, ymin - 1, xmax, ymax), difficult == "1")


def _corner(element: ElementTree.Element, side: str, where: str) -> float:
    text = element.findtext(f"bndbox/{side}")
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DatasetError(f"{where} has {text!r} for bndbox/{side}; expected a number")
    return value


def _annotation(number: int, image_id: int, category_id: int, found: VocObject) -> dict[str, Any]:
    x1, y1, x2, y2 = found.box
    flag = int(found.difficult)
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    return {
        "id": number, "image_id": image_id, "category_id": category_id, **box, "iscrowd": flag, "difficult": flag,
    }  # fmt: skip


def _ids(root: Path, part: Part) -> list[str]:
    """Ids of a list; a class's own list has a second column, which is not read."""
    path = _list_path(root, part)
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}; {WHERE_TO_GET}") from error
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise DatasetError(f"{path} lists no images: the split is empty")
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise DatasetError(f"{path} lists {name} {times} times")
    return names


def _size(path: Path) -> tuple[int, int]:
    """Of the image itself; VOC's own evaluation does not read the size in the XML either."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing; {WHERE_TO_GET}")
    return image_size(path)


def _list_path(root: Path, part: Part) -> Path:
    return root / f"VOC{part[0]}" / "ImageSets" / "Main" / f"{part[1]}.txt"


def _xml_path(root: Path, part: Part, name: str) -> Path:
    return root / f"VOC{part[0]}" / "Annotations" / f"{name}.xml"

"""COCO 2017 as its archives unpack: ``annotations/instances_<split>2017.json``, ``train2017/`` and ``val2017/``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibox_core.coco_check import check_files
from calibox_core.dataset import CocoFolder, Split, read_annotations
from calibox_core.errors import DatasetError

WHERE_TO_GET = (
    "get annotations_trainval2017.zip, train2017.zip and val2017.zip from https://cocodataset.org/#download and unpack "
    "them into one folder"
)
_SPLITS: tuple[Split, Split] = ("train", "val")


@dataclass(frozen=True, slots=True)
class Coco2017Folder:
    """A folder with ``annotations/``, ``train2017/`` and ``val2017/``; a split works without the other one's files."""

    root: Path

    @property
    def images(self) -> Path:
        """The images of the two splits lie apart, so file names begin with the split's folder."""
        return self.root

    def annotations(self, split: Split) -> dict[str, Any]:
        """The annotation document of a split, its file names below `images`, without masks.

        Raises:
            DatasetError: the file or an image is missing, or the file holds no COCO annotations.
        """
        document = self._document(split)
        for row in filter(_is_row, document["annotations"] or ()):
            row.pop("segmentation", None)  # nine tenths of the file, and nothing here reads them
        images = [_below(f"{split}2017", image) for image in document["images"] or ()]
        names = [image["file_name"] for image in images if _is_row(image) and "file_name" in image]
        check_files(self.images, names, self.source(split), remedy=WHERE_TO_GET)
        return {**document, "images": images}

    def annotation_files(self, split: Split) -> list[Path]:
        """The one annotation file of a split."""
        return [_annotations_path(self.root, split)]

    def image_count(self, split: Split) -> int:
        """Number of images that the annotation file lists."""
        return len(self._document(split)["images"])

    def source(self, split: Split) -> str:
        """The path of the annotation file."""
        return str(_annotations_path(self.root, split))

    def _document(self, split: Split) -> dict[str, Any]:
        path = _annotations_path(self.root, split)
        if not path.is_file():
            raise DatasetError(f"{path} is missing; {WHERE_TO_GET}")
        return read_annotations(path)


def find_coco2017(place: Path) -> Path | None:
    """The place itself where it holds a part of COCO 2017 and no annotations of the flat layout, else None."""
    flat = any(CocoFolder(place).annotations_path(split).exists() for split in _SPLITS)
    official = any(_annotations_path(place, split).exists() or (place / f"{split}2017").is_dir() for split in _SPLITS)
    return place if official and not flat else None


def _annotations_path(root: Path, split: Split) -> Path:
    return root / "annotations" / f"instances_{split}2017.json"


def _below(folder: str, image: Any) -> Any:
    """An image's row with the folder before its file name; a row that has none is left to `check_document`."""
    if not _is_row(image) or "file_name" not in image:
        return image
    return {**image, "file_name": f"{folder}/{image['file_name']}"}


def _is_row(row: Any) -> bool:
    return isinstance(row, dict)

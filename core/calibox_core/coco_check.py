"""Is a COCO annotation document sound? A pass over the whole document, without opening an image.

What is an error here and what is dropped with a counted warning is listed in docs/data.md.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from calibox_core.errors import DatasetError

# As many file names as one reads before understanding that a whole folder is absent.
_NAMED = 3


def check_document(document: Mapping[str, Any], source: str) -> None:
    """Checks ids, references, sizes and boxes.

    Boxes without area and boxes outside their image pass: real data sets hold some, and the reader drops and counts
    them. Gaps between category ids pass too.

    Args:
        document: an annotation document with images, annotations and categories.
        source: the file it came from, named in errors.

    Raises:
        DatasetError: the first thing found wrong, with the id of its image, category or annotation.
    """
    for key in ("images", "categories", "annotations"):
        if not isinstance(document[key], list):
            raise DatasetError(f"{source} has no list of {key}")
    if not document["images"]:
        raise DatasetError(f"{source} lists no images: the split is empty")
    if not document["categories"]:
        raise DatasetError(f"{source} lists no categories")
    _check_categories(document["categories"], source)
    for number, image in enumerate(document["images"]):
        _check_image(image, f"{source}: image {_named(image, number)}")
    _check_annotations(document, source)


def _check_categories(categories: Sequence[Any], source: str) -> None:
    for number, category in enumerate(categories):
        where = f"{source}: category number {number}"
        _require(category, ("id", "name"), where)
        _check_id(category["id"], where)
    _distinct((c["id"] for c in categories), f"{source}: category id")
    _distinct((c["name"] for c in categories), f"{source}: category name")


def _check_annotations(document: Mapping[str, Any], source: str) -> None:
    categories = {category["id"] for category in document["categories"]}
    images = _distinct((image["id"] for image in document["images"]), f"{source}: image id")
    for number, annotation in enumerate(document["annotations"]):
        where = f"{source}: annotation {_named(annotation, number)}"
        _require(annotation, ("image_id", "category_id", "bbox"), where)
        _check_id(annotation["image_id"], where)
        _check_id(annotation["category_id"], where)
        if annotation["category_id"] not in categories:
            raise DatasetError(f"{where} names category {annotation['category_id']}, which is not in the file")
        if annotation["image_id"] not in images:
            raise DatasetError(f"{where} names image {annotation['image_id']}, which is not in the file")
        check_box(annotation["bbox"], where)
    _distinct((a["id"] for a in document["annotations"] if "id" in a), f"{source}: annotation id")


def check_box(box: Any, where: str) -> None:
    """Checks x, y, width, height for length, numbers and sign.

    Raises:
        DatasetError: malformed; ``where`` begins the sentence.
    """
    if not isinstance(box, Sequence) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise DatasetError(f"{where} has the bbox {box}; expected four numbers: x, y, width, height")
    if not all(math.isfinite(value) for value in box):
        raise DatasetError(f"{where} has the bbox {box}, which is not finite")
    if box[2] < 0 or box[3] < 0:
        raise DatasetError(f"{where} has the bbox {box}, whose width or height is negative")


def check_files(images: Path, file_names: Sequence[str], source: str, *, remedy: str = "") -> None:
    """Checks that every image file is there, without reading one.

    Args:
        images: folder that the names are relative to.
        file_names: of the split.
        source: what lists them, named in errors.
        remedy: what to do, where that is known.

    Raises:
        DatasetError: some are missing; the text counts them and names the first.
    """
    missing = [name for name in file_names if not (images / name).is_file()]
    if missing:
        first = ", ".join(str(images / name) for name in missing[:_NAMED])
        raise DatasetError(
            f"{len(missing)} of the {len(file_names)} images of {source} are missing: {first}"
            f"{' and more' if len(missing) > _NAMED else ''}{f'; {remedy}' if remedy else ''}"
        )


def _check_image(image: Mapping[str, Any], where: str) -> None:
    _require(image, ("id", "file_name", "width", "height"), where)
    _check_id(image["id"], where)
    sides = (image["width"], image["height"])
    if not all(_is_number(side) and math.isfinite(side) and side > 0 for side in sides):
        raise DatasetError(f"{where} has the size {sides[0]}x{sides[1]}; expected pixels above 0")


def _check_id(value: Any, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DatasetError(f"{where} uses the id {value!r}; ids of images and categories are whole numbers")


def _require(row: Any, keys: tuple[str, ...], where: str) -> None:
    lacking = [key for key in keys if not isinstance(row, Mapping) or key not in row]
    if lacking:
        raise DatasetError(f"{where} lacks {', '.join(lacking)}")


def _named(row: Any, number: int) -> str:
    """The id of a row, or its position where it has none."""
    return str(row["id"]) if isinstance(row, Mapping) and "id" in row else f"number {number} (it has no id)"


def _distinct(values: Iterable[Hashable], what: str) -> set[Hashable]:
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            raise DatasetError(f"{what} {value} occurs more than once")
        seen.add(value)
    return seen


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

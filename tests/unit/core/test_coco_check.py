"""What is wrong with a COCO document is said in a sentence that names it."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibox_core.coco_check import check_document, check_files
from calibox_core.errors import DatasetError

SOUND: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 17, "name": "dog"}],  # with a gap
    "annotations": [
        {"id": 100, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4]},
        {"id": 101, "image_id": 9, "category_id": 17, "bbox": [0.5, 2, 3.5, 4]},
    ],
}


def test_a_sound_document_with_a_gap_between_category_ids_passes() -> None:
    check_document(SOUND, "some.json")


def test_boxes_without_area_and_outside_are_left_to_the_reader() -> None:
    document = copy.deepcopy(SOUND)
    document["annotations"][0]["bbox"] = [5, 5, 0, 3]
    document["annotations"][1]["bbox"] = [500, 500, 5, 3]
    check_document(document, "some.json")


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last, value = path

    def change(document: dict[str, Any]) -> None:
        part: Any = document
        for key in keys:
            part = part[key]
        part[last] = value

    return change


def _delete(*path: Any) -> Callable[[dict[str, Any]], None]:
    *keys, last = path

    def change(document: dict[str, Any]) -> None:
        part: Any = document
        for key in keys:
            part = part[key]
        del part[last]

    return change


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set("images", []), r"some\.json lists no images: the split is empty"),
        (_set("categories", []), r"some\.json lists no categories"),
        (_set("images", 1, "id", 7), r"image id 7 occurs more than once"),
        (_set("annotations", 1, "id", 100), r"annotation id 100 occurs more than once"),
        (_set("categories", 1, "id", 2), r"category id 2 occurs more than once"),
        (_set("categories", 1, "name", "cat"), r"category name cat occurs more than once"),
        (_set("annotations", 1, "category_id", 3), r"annotation 101 names category 3, which is not in the file"),
        (_set("annotations", 1, "image_id", 8), r"annotation 101 names image 8, which is not in the file"),
        (_set("annotations", 0, "bbox", [1, 2, 3]), r"annotation 100 has the bbox \[1, 2, 3\]; expected four numbers"),
        (_set("annotations", 0, "bbox", [1, 2, 3, "4"]), r"annotation 100 .* expected four numbers"),
        (_set("annotations", 0, "bbox", None), r"annotation 100 has the bbox None"),
        (_set("annotations", 0, "bbox", [1, 2, math.nan, 4]), r"annotation 100 .* not finite"),
        (_set("annotations", 0, "bbox", [1, 2, math.inf, 4]), r"annotation 100 .* not finite"),
        (_set("annotations", 0, "bbox", [1, 2, -3, 4]), r"annotation 100 .* negative"),
        (_set("annotations", None), r"some\.json has no list of annotations"),
        (_set("images", 0, "id", "7"), r"image 7 uses the id '7'; ids .* are whole numbers"),
        (_set("categories", 0, "id", None), r"category number 0 uses the id None"),
        (_set("annotations", 1, "category_id", [17]), r"annotation 101 uses the id \[17\]"),
        (_set("annotations", 1, 5), r"annotation number 1 \(it has no id\) lacks image_id, category_id, bbox"),
        (_delete("annotations", 1, "bbox"), r"annotation 101 lacks bbox"),
        (_delete("annotations", 1, "category_id"), r"annotation 101 lacks category_id"),
        (_delete("images", 0, "file_name"), r"image 7 lacks file_name"),
        (_delete("images", 0, "id"), r"image number 0 \(it has no id\) lacks id"),
        (_set("images", 0, "width", 0), r"image 7 has the size 0x30"),
        (_delete("categories", 0, "name"), r"category number 0 lacks name"),
    ],
)
def test_what_is_wrong_is_named(change: Callable[[dict[str, Any]], None], sentence: str) -> None:
    document = copy.deepcopy(SOUND)
    change(document)
    with pytest.raises(DatasetError, match=sentence) as caught:
        check_document(document, "some.json")
    assert str(caught.value).startswith("some.json")


def test_an_annotation_without_an_id_is_named_by_its_position() -> None:
    document = copy.deepcopy(SOUND)
    del document["annotations"][1]["id"]
    check_document(document, "some.json")
    document["annotations"][1]["bbox"] = []
    with pytest.raises(DatasetError, match="annotation number 1"):
        check_document(document, "some.json")


def test_missing_image_files_are_counted_and_the_first_named(tmp_path: Path) -> None:
    (tmp_path / "here.png").write_bytes(b"")
    check_files(tmp_path, ["here.png"], "some.json")
    names = ["here.png", *(f"gone{n}.png" for n in range(5))]
    with pytest.raises(DatasetError, match=r"5 of the 6 images of some\.json are missing: .*gone0.*gone2.*and more"):
        check_files(tmp_path, names, "some.json")

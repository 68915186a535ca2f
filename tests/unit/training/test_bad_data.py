"""Bad data get a sentence before a run starts, in every layout: it names the file, and the line, object or id in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibox_core.errors import DatasetError
from calibox_core.layouts import DataLayout, open_dataset
from calibox_training.data.module import CocoDataModule
from tests.support.coco import make_coco_folder
from tests.support.coco2017 import make_coco2017
from tests.support.kitti import label_line, make_kitti
from tests.support.recipes import tiny_recipe
from tests.support.voc import make_voc, write_voc_image, write_voc_list

LAYOUTS: dict[str, tuple[Callable[[Path], Any], dict[str, Any]]] = {
    "coco": (make_coco_folder, {}),
    "coco2017": (make_coco2017, {}),
    "voc": (make_voc, {"format": "voc", "voc": {"classes": ["car", "person"]}}),
    "kitti": (make_kitti, {"format": "kitti"}),
}
# Of the training split.
JSON_FILES = {"coco": "instances_train.json", "coco2017": "annotations/instances_train2017.json"}
IMAGES = {
    "coco": "images/1.png",
    "coco2017": "train2017/000000000001.jpg",
    "voc": "VOCdevkit/VOC2007/JPEGImages/2007_trainval_000000.jpg",
    "kitti": "training/image_2/000000.png",
}
YEAR = Path("VOCdevkit/VOC2007")
XML = YEAR / "Annotations" / "2007_trainval_000000.xml"
LABELS = Path("training/label_2/000000.txt")


def _check(root: Path, layout: str) -> None:
    """What a run does before it starts."""
    source = LAYOUTS[layout][1]
    recipe = tiny_recipe(data={"name": "spoilt", **source})
    CocoDataModule(recipe, open_dataset(str(root), DataLayout.model_validate(source)), workers=0).check()


def _make(tmp_path: Path, layout: str) -> Path:
    LAYOUTS[layout][0](tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sound_data_pass_without_a_word(tmp_path: Path, layout: str, caplog: pytest.LogCaptureFixture) -> None:
    _check(_make(tmp_path, layout), layout)
    assert caplog.messages == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_image_is_named(tmp_path: Path, layout: str) -> None:
    root = _make(tmp_path, layout)
    (root / IMAGES[layout]).unlink()
    with pytest.raises(DatasetError, match=f"{IMAGES[layout]}.*") as caught:
        _check(root, layout)
    assert "missing" in str(caught.value)


@pytest.mark.parametrize("layout", JSON_FILES)
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d["images"].append(dict(d["images"][0])), "image id 1 occurs more than once"),
        (lambda d: d["annotations"].append(dict(d["annotations"][0])), r"annotation id \d+ occurs more than once"),
        (lambda d: d["categories"].append({"id": 5, "name": "x"}), "category id 5 occurs more than once"),
        (lambda d: d["annotations"][0].update(id=77, category_id=9), "annotation 77 names category 9, which is not in"),
        (lambda d: d["annotations"][0].update(id=77, bbox=[1, 2, -3, 4]), "annotation 77 has the bbox .* negative"),
        (lambda d: d.update(images=[], annotations=[]), "lists no images: the split is empty"),
        (lambda d: d.update(annotations=[]), "holds no object to learn from"),
    ],
    ids=["images", "annotations", "categories", "unknown", "negative", "empty", "nothing"],
)
def test_a_json_file_is_named_with_the_id(tmp_path: Path, layout: str, change: Any, sentence: str) -> None:
    root = _make(tmp_path, layout)
    path = root / JSON_FILES[layout]
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=rf"{path.name}:? {sentence}"):
        _check(root, layout)


@pytest.mark.parametrize("layout", JSON_FILES)
def test_a_json_file_that_ends_too_early_is_named_with_the_place(tmp_path: Path, layout: str) -> None:
    root = _make(tmp_path, layout)
    path = root / JSON_FILES[layout]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DatasetError, match=rf"{path.name} cannot be read as COCO annotations: .*line 1 column \d+"):
        _check(root, layout)


@pytest.mark.parametrize("layout", JSON_FILES)
def test_a_gap_between_category_ids_is_no_flaw(tmp_path: Path, layout: str) -> None:
    root = _make(tmp_path, layout)
    for path in (root / JSON_FILES[layout], root / JSON_FILES[layout].replace("train", "val")):
        document = json.loads(path.read_bytes())
        for row, key in [(row, "category_id") for row in document["annotations"]] + [
            (row, "id") for row in document["categories"]
        ]:
            row[key] = {5: 5, 6: 90}[row[key]]
        path.write_text(json.dumps(document))
    _check(root, layout)


def _spoil_json(root: Path, layout: str) -> None:
    path = root / JSON_FILES[layout]
    document = json.loads(path.read_bytes())
    first, second = document["annotations"][1:3]
    first["bbox"], second["bbox"] = [10, 10, 0, 5], [300, 10, 20, 20]
    path.write_text(json.dumps(document))


def _spoil_kitti(root: Path, layout: str) -> None:
    lines = [label_line("Car", box) for box in ((10, 10, 10, 15), (300, 10, 320, 30), (1, 2, 30, 40))]
    (root / LABELS).write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("layout", "spoil"), [("coco", _spoil_json), ("coco2017", _spoil_json), ("kitti", _spoil_kitti)]
)
def test_boxes_without_area_and_outside_are_counted_and_the_first_is_shown(
    tmp_path: Path, layout: str, spoil: Callable[[Path, str], None], caplog: pytest.LogCaptureFixture
) -> None:
    root = _make(tmp_path, layout)
    spoil(root, layout)
    _check(root, layout)
    (said,) = caplog.messages
    assert "1 without area dropped (first: [10" in said
    assert "1 outside the image dropped (first: [300" in said
    assert said.startswith(str(root))


def test_a_voc_box_outside_is_shown_with_its_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = _make(tmp_path, "voc")
    write_voc_image(root / YEAR, "a", [("car", 1, 1, 40, 40, 0), ("car", 201, 11, 220, 30, 0)])
    write_voc_list(root / YEAR, "trainval", ["a"])
    _check(root, "voc")
    (said,) = caplog.messages
    assert "boxes 1 outside the image dropped (first: [200.0, 10.0, 20.0, 20.0] in VOC2007/JPEGImages/a.jpg)" in said


@pytest.mark.parametrize(
    ("path", "text", "sentence"),
    [
        (XML, "<annotation>\n<object><na", r"000000\.xml is truncated or no XML, at line 2, column \d+"),
        (
            XML,
            "<annotation><object><name>cat</name></object></annotation>",
            r"000000\.xml: object 1 has None for bndbox",
        ),
        (YEAR / "ImageSets/Main/trainval.txt", "", r"trainval\.txt lists no images: the split is empty"),
        (YEAR / "ImageSets/Main/trainval.txt", "a\na\n", r"trainval\.txt lists a 2 times"),
    ],
)
def test_a_voc_file_is_named_with_the_line_or_object(tmp_path: Path, path: Path, text: str, sentence: str) -> None:
    root = _make(tmp_path, "voc")
    (root / path).write_text(text)
    with pytest.raises(DatasetError, match=sentence):
        _check(root, "voc")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"{label_line('Car', (1, 2, 30, 40))}\nCar 0.00 0", r"line 2 has 3 columns; expected 15"),
        (label_line("Car", (30, 2, 1, 40)), r"line 1 \(Car\) has the box .* inverted"),
    ],
)
def test_a_kitti_file_is_named_with_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    root = _make(tmp_path, "kitti")
    (root / LABELS).write_text(text)
    with pytest.raises(DatasetError, match=rf"label_2/000000\.txt, {sentence}"):
        _check(root, "kitti")


def test_a_kitti_share_that_takes_no_image_is_an_empty_split(tmp_path: Path) -> None:
    make_kitti(tmp_path / "data")  # eight images, of which a hundredth is none
    layout = DataLayout.model_validate({"format": "kitti", "kitti": {"val_fraction": 0.01}})
    with pytest.raises(DatasetError, match=r"label_2 \(val part, val_fraction 0\.01\) lists no images: the split is"):
        open_dataset(str(tmp_path / "data"), layout).annotations("val")

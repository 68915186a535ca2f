"""Reading PASCAL VOC's official layout."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from calibox_core.errors import DatasetError
from calibox_core.voc import VOC_CLASSES, VocFolder, VocSplits, find_voc, read_voc_objects
from tests.support.voc import SIZE, make_voc, write_voc_image, write_voc_list


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    return make_voc(tmp_path)


def test_the_devkit_is_found_at_the_folder_and_above_it(devkit: Path) -> None:
    assert find_voc(devkit) == devkit
    assert find_voc(devkit.parent) == devkit
    assert find_voc(devkit / "VOC2007") is None


def test_07_and_12_are_joined_and_measured_on_the_test_of_07(devkit: Path) -> None:
    folder = VocFolder(devkit, VocSplits())
    train, val = folder.annotations("train"), folder.annotations("val")
    assert [image["file_name"] for image in train["images"]] == [
        *(f"VOC2007/JPEGImages/2007_trainval_{n:06d}.jpg" for n in range(3)),
        *(f"VOC2012/JPEGImages/2012_trainval_{n:06d}.jpg" for n in range(3)),
    ]
    assert [image["id"] for image in train["images"]] == [1, 2, 3, 4, 5, 6]
    assert all(image["file_name"].startswith("VOC2007/JPEGImages/2007_test") for image in val["images"])
    assert all((image["height"], image["width"]) == SIZE for image in train["images"])
    assert [c["name"] for c in train["categories"]] == list(VOC_CLASSES)
    assert len(VOC_CLASSES) == 20
    assert (folder.image_count("train"), folder.image_count("val")) == (6, 3)
    files = folder.annotation_files("train")
    assert files[0] == devkit / "VOC2007" / "ImageSets" / "Main" / "trainval.txt"
    assert len(files) == 2 + 6


def test_pixels_counted_from_1_become_continuous_from_0_and_difficult_ones_crowds(tmp_path: Path) -> None:
    year = tmp_path / "VOC2007"
    write_voc_image(year, "a", [("car", 1, 1, 128, 96, 0), ("person", 11, 21, 11, 22, 1)])
    write_voc_list(year, "trainval", ["a"])
    folder = VocFolder(tmp_path, VocSplits(train=((2007, "trainval"),)))
    whole, small = folder.annotations("train")["annotations"]
    assert (whole["bbox"], whole["category_id"], whole["iscrowd"]) == ([0, 0, 128, 96], 7, 0)
    assert (small["bbox"], small["category_id"], small["iscrowd"]) == ([10, 20, 1, 2], 15, 1)
    assert (whole["difficult"], small["difficult"]) == (0, 1)
    assert (whole["id"], small["id"]) == (1, 2)


def test_parts_of_persons_are_no_objects_and_an_object_without_the_flag_is_not_difficult(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    box = "<bndbox><xmin>{}</xmin><ymin>2</ymin><xmax>9.5</xmax><ymax>9</ymax></bndbox>"
    part = f"<part><name>head</name>{box.format(1)}</part>"
    path.write_text(f"<annotation><object><name>person</name>{part}{box.format(3)}</object></annotation>")
    (found,) = read_voc_objects(path)
    assert (found.name, found.box, found.difficult) == ("person", (2.0, 1.0, 9.5, 9.0), False)


def test_a_class_list_with_a_second_column_is_read_by_its_first(devkit: Path) -> None:
    path = devkit / "VOC2007" / "ImageSets" / "Main" / "test.txt"
    path.write_text("2007_test_000000  1\n2007_test_000001 -1\n")
    assert VocFolder(devkit, VocSplits()).image_count("val") == 2


def _annotations(devkit: Path, **splits: object) -> object:
    return VocFolder(devkit, VocSplits.model_validate(splits)).annotations("train")


def test_what_is_missing_is_named_with_the_place_to_get_it(devkit: Path) -> None:
    with pytest.raises(DatasetError, match=r"VOC2010.*trainval\.txt cannot be read.*host\.robots\.ox\.ac\.uk"):
        _annotations(devkit, train=[[2010, "trainval"]])
    (devkit / "VOC2012" / "JPEGImages" / "2012_trainval_000001.jpg").unlink()
    with pytest.raises(DatasetError, match=r"2012_trainval_000001\.jpg is missing; get VOCtrainval"):
        _annotations(devkit)
    (devkit / "VOC2007" / "Annotations" / "2007_trainval_000001.xml").unlink()
    with pytest.raises(DatasetError, match=r"2007_trainval_000001\.xml cannot be read.*get VOCtrainval"):
        _annotations(devkit)


@pytest.mark.parametrize(
    ("names", "sentence"), [([], "lists no images: the split is empty"), (["a", "b", "a"], "lists a 2 times")]
)
def test_a_list_that_is_empty_or_repeats_is_refused(devkit: Path, names: list[str], sentence: str) -> None:
    write_voc_list(devkit / "VOC2007", "trainval", names)
    with pytest.raises(DatasetError, match=rf"trainval\.txt {sentence}"):
        _annotations(devkit)


BOX = "<bndbox><xmin>3</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
OBJECT = f"<object><name>car</name>{BOX}</object>"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"<annotation>\n{OBJECT}\n<object><na", r"truncated or no XML, at line 3, column \d+"),
        ("", r"truncated or no XML, at line 1"),
        (f"<annotation>{OBJECT}<object>{BOX}</object></annotation>", r"object 2 has no name"),
        (f"<annotation>{OBJECT.replace('>9</xmax', '>nine</xmax')}</annotation>", r"object 1 has 'nine' for bndbox/xm"),
        (f"<annotation>{OBJECT.replace('>9</xmax', '>nan</xmax')}</annotation>", r"object 1 has 'nan' for bndbox/xmax"),
        ("<annotation><object><name>car</name></object></annotation>", r"object 1 has None for bndbox/xmin"),
        (f"<annotation>{OBJECT.replace('>9</xmax', '>2</xmax')}</annotation>", r"object 1 \(car\) .* inverted"),
        (
            f"<annotation>{OBJECT.replace('</name>', '</name><difficult>yes</difficult>')}</annotation>",
            r"object 1 \(car\) has 'yes' for difficult; expected 0 or 1",
        ),
        (f"<annotation>{OBJECT.replace('car', 'unicorn')}</annotation>", r"object 1 is a 'unicorn', which is not"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(devkit: Path, text: str, sentence: str) -> None:
    (devkit / "VOC2007" / "Annotations" / "2007_trainval_000000.xml").write_text(text)
    with pytest.raises(DatasetError, match=rf"2007_trainval_000000\.xml.*{sentence}"):
        _annotations(devkit)


def test_other_classes_in_the_same_form_are_named_in_the_settings(tmp_path: Path) -> None:
    year = tmp_path / "VOC2007"
    write_voc_image(year, "a", [("unicorn", 1, 1, 10, 10, 0)])
    write_voc_list(year, "all", ["a"])
    splits = VocSplits(train=((2007, "all"),), val=((2007, "all"),), classes=("horse", "unicorn"))
    assert VocFolder(tmp_path, splits).annotations("val")["annotations"][0]["category_id"] == 2


@pytest.mark.parametrize("part", [[1999, "trainval"], [2007, "../secret"], [2007]])
def test_a_part_is_a_year_and_a_list(part: list[object]) -> None:
    with pytest.raises(ValidationError):
        VocSplits.model_validate({"train": [part]})

"""Reading KITTI's official layout."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from calibox_core.errors import DatasetError
from calibox_core.kitti import KittiFolder, KittiSplits, find_kitti, read_kitti_objects
from tests.support.kitti import SIZE, label_line, make_kitti


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_kitti(tmp_path / "kitti")


def test_the_folder_that_holds_training_is_found(root: Path) -> None:
    assert find_kitti(root) == root
    assert find_kitti(root / "training") is None


def test_cars_are_objects_vans_and_dont_care_crowds_and_others_background(root: Path) -> None:
    document = KittiFolder(root, KittiSplits(val_fraction=0.25)).annotations("train")
    assert [c["name"] for c in document["categories"]] == ["Car"]
    assert [i["file_name"] for i in document["images"]] == [f"{n:06d}.png" for n in range(6)]
    assert all((i["height"], i["width"]) == SIZE for i in document["images"])
    kinds = [(a["kitti_type"], a["iscrowd"]) for a in document["annotations"] if a["image_id"] in (1, 2)]
    assert kinds == [
        *[("Car", 0), ("Car", 0), ("DontCare", 1)],  # the first image's third object is a Pedestrian
        *[("Car", 0), ("Car", 0), ("Van", 1), ("DontCare", 1)],
    ]
    assert len({a["id"] for a in document["annotations"]}) == len(document["annotations"])


def test_a_label_line_is_read_by_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "0.txt"
    path.write_text("Car 0.30 2 -1.57 599.41 156.40 629.75 189.25 2.85 2.63 12.34 0.47 1.49 69.44 -1.56\n")
    (car,) = read_kitti_objects(path)
    assert (car.kind, car.truncated, car.occluded) == ("Car", 0.3, 2)
    assert car.box == (599.41, 156.40, 629.75, 189.25)


def test_a_fraction_takes_the_last_ids_and_the_splits_share_none(root: Path) -> None:
    folder = KittiFolder(root, KittiSplits(val_fraction=0.25))
    val = [image["file_name"] for image in folder.annotations("val")["images"]]
    assert val == ["000006.png", "000007.png"]
    assert (folder.image_count("train"), folder.image_count("val")) == (6, 2)
    assert len(folder.annotation_files("train")) == 6


def test_files_of_ids_divide_the_images(root: Path) -> None:
    (root / "lists").mkdir()
    (root / "lists" / "train.txt").write_text("000003\n000001\n")
    (root / "lists" / "val.txt").write_text("000002\n")
    folder = KittiFolder(root, KittiSplits(train="lists/train.txt", val="lists/val.txt"))
    assert [i["file_name"] for i in folder.annotations("train")["images"]] == ["000003.png", "000001.png"]
    assert folder.annotation_files("val") == [
        root / "lists" / "val.txt",
        root / "training" / "label_2" / "000002.txt",
    ]
    assert folder.source("val").endswith("val.txt")


def test_one_file_of_ids_without_the_other_is_refused() -> None:
    with pytest.raises(ValidationError, match="given together"):
        KittiSplits(train="lists/train.txt")


def test_what_is_missing_is_named_with_the_place_to_get_it(root: Path) -> None:
    lists = KittiFolder(root, KittiSplits(train="nowhere.txt", val="nowhere.txt"))
    with pytest.raises(DatasetError, match=r"nowhere\.txt cannot be read.*not part of KITTI"):
        lists.annotations("train")
    folder = KittiFolder(root, KittiSplits())
    (root / "training" / "image_2" / "000001.png").unlink()
    with pytest.raises(DatasetError, match=r"000001\.png is missing; get data_object_image_2\.zip"):
        folder.annotations("train")
    for path in (root / "training" / "label_2").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"label_2 holds no label files; get .*cvlibs"):
        folder.annotations("train")


def test_an_id_without_a_label_file_is_named(root: Path) -> None:
    (root / "val.txt").write_text("000999\n")
    folder = KittiFolder(root, KittiSplits(train="val.txt", val="val.txt"))
    with pytest.raises(DatasetError, match=r"000999\.txt cannot be read.*data_object_label_2\.zip"):
        folder.annotations("val")


@pytest.mark.parametrize(("text", "sentence"), [("", "the split is empty"), ("a\nb\na\n", "lists a more than once")])
def test_a_list_that_is_empty_or_repeats_is_refused(root: Path, text: str, sentence: str) -> None:
    (root / "ids.txt").write_text(text)
    with pytest.raises(DatasetError, match=rf"ids\.txt.*{sentence}"):
        KittiFolder(root, KittiSplits(train="ids.txt", val="ids.txt")).annotations("train")


GOOD = label_line("Car", (1, 2, 30, 40))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("Car 0.0 0 -1.57 599.41", "has 5 columns; expected 15"),
        (GOOD.replace("30.00", "wide"), r"\(Car\) holds a column that is no number: .*wide"),
        (GOOD.replace("30.00", "nan"), r"\(Car\) holds a number that is not finite"),
        (GOOD.replace("30.00", "0.50"), r"\(Car\) has the box 1, 2, 0.5, 40, which is inverted"),
    ],
)
def test_what_is_wrong_in_a_line_is_named_with_its_number(root: Path, line: str, sentence: str) -> None:
    path = root / "training" / "label_2" / "000000.txt"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(DatasetError, match=rf"000000\.txt, line 2 {sentence}"):
        KittiFolder(root, KittiSplits()).annotations("train")

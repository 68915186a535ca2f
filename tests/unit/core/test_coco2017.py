"""Reading COCO 2017 as its archives unpack."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from calibox_core.coco2017 import Coco2017Folder, find_coco2017
from calibox_core.coco_check import check_document
from calibox_core.coco_metrics import load_ground_truth
from calibox_core.dataset import DATA_VARIABLE, CocoFolder, Split
from calibox_core.errors import DatasetError
from calibox_core.layouts import DataLayout, open_dataset
from tests.support.coco import make_coco_folder
from tests.support.coco2017 import make_coco2017


@pytest.fixture
def folder(tmp_path: Path) -> Coco2017Folder:
    return make_coco2017(tmp_path / "coco")


def _path(folder: Coco2017Folder, split: Split) -> Path:
    return folder.root / "annotations" / f"instances_{split}2017.json"


def _rewrite(folder: Coco2017Folder, split: Split, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(_path(folder, split).read_bytes())
    change(document)
    _path(folder, split).write_text(json.dumps(document))


def test_the_default_format_recognises_both_layouts(tmp_path: Path, folder: Coco2017Folder) -> None:
    flat = make_coco_folder(tmp_path / "flat").root
    assert open_dataset(str(folder.root), DataLayout()) == folder
    assert open_dataset(str(flat), DataLayout()) == CocoFolder(flat)
    assert (find_coco2017(folder.root), find_coco2017(flat)) == (folder.root, None)


def test_it_is_found_by_its_name_and_the_folder_comes_first(
    tmp_path: Path, folder: Coco2017Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_dataset("coco", DataLayout()) == folder
    make_coco_folder(Path("coco"))
    assert open_dataset("coco", DataLayout()) == CocoFolder(Path("coco"))


@pytest.mark.parametrize("kept", ["annotations/instances_val2017.json", "train2017", "val2017"])
def test_a_part_of_it_is_recognised_so_that_what_lacks_can_be_named(
    tmp_path: Path, folder: Coco2017Folder, kept: str
) -> None:
    part = tmp_path / "part" / kept
    part.parent.mkdir(parents=True)
    (folder.root / kept).rename(part)
    opened = open_dataset(str(tmp_path / "part"), DataLayout())
    with pytest.raises(DatasetError, match=r"instances_train2017\.json is missing; get .*https://cocodataset\.org"):
        opened.annotations("train")


def test_flat_annotations_win_over_a_folder_of_the_official_name(tmp_path: Path) -> None:
    flat = make_coco_folder(tmp_path / "flat")
    (flat.root / "train2017").mkdir()
    assert open_dataset(str(flat.root), DataLayout()) == flat


def test_file_names_lead_to_the_images_of_their_split(folder: Coco2017Folder) -> None:
    train, val = folder.annotations("train"), folder.annotations("val")
    assert [image["file_name"] for image in val["images"]] == [f"val2017/{n:012d}.jpg" for n in (1, 2, 3, 4)]
    assert train["images"][0]["file_name"] == "train2017/000000000001.jpg"
    first, other = (folder.images / document["images"][0]["file_name"] for document in (train, val))
    assert first.read_bytes() != other.read_bytes()
    assert (folder.image_count("train"), folder.image_count("val")) == (8, 4)
    assert folder.annotation_files("val") == [_path(folder, "val")]
    assert folder.source("val") == str(_path(folder, "val"))


def test_boxes_and_crowds_are_kept_and_masks_left_out(folder: Coco2017Folder) -> None:
    written = json.loads(_path(folder, "train").read_bytes())["annotations"]
    read = folder.annotations("train")["annotations"]
    assert {type(row["segmentation"]) for row in written} == {list, dict}
    assert read == [{key: value for key, value in row.items() if key != "segmentation"} for row in written]
    assert sum(row["iscrowd"] for row in read) == 1


def test_the_document_is_sound_for_training_and_for_the_metrics(folder: Coco2017Folder) -> None:
    document = folder.annotations("val")
    check_document(document, "val")
    assert sorted(load_ground_truth(document).getImgIds()) == [image["id"] for image in document["images"]]


def test_a_split_works_without_the_files_of_the_other(folder: Coco2017Folder) -> None:
    _path(folder, "train").unlink()
    for path in (folder.root / "train2017").iterdir():
        path.unlink()
    (folder.root / "train2017").rmdir()
    assert len(open_dataset(str(folder.root), DataLayout()).annotations("val")["images"]) == 4


def test_missing_images_are_counted_and_named_with_the_place_to_get_them(folder: Coco2017Folder) -> None:
    (folder.root / "val2017" / "000000000003.jpg").unlink()
    sentence = (
        r"1 of the 4 images of .*instances_val2017\.json are missing: .*val2017/000000000003\.jpg; "
        r"get .*val2017\.zip from https://cocodataset\.org/#download"
    )
    with pytest.raises(DatasetError, match=sentence):
        folder.annotations("val")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.update(images=[], annotations=[]), "lists no images: the split is empty"),
        (lambda d: d.update(annotations=None), "has no list of annotations"),
        (lambda d: d["images"].append(d["images"][0]), "image id 9 occurs more than once"),
        (lambda d: d["annotations"].append(d["annotations"][0]), r"annotation id \d+ occurs more than once"),
        (lambda d: d["annotations"][0].update(category_id=7), r"annotation \d+ names category 7, which is not in"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, -3, 4]), r"annotation \d+ has the bbox .* negative"),
        (lambda d: d["images"][0].pop("file_name"), "image 9 lacks file_name"),
        (lambda d: d["images"].append(4), r"image number 4 \(it has no id\) lacks id"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(
    folder: Coco2017Folder, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    _rewrite(folder, "val", change)
    with pytest.raises(DatasetError, match=rf"instances_val2017\.json:? {sentence}"):
        check_document(folder.annotations("val"), folder.source("val"))


def test_annotations_that_are_cut_short_are_named(folder: Coco2017Folder) -> None:
    path = _path(folder, "val")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match=r"instances_val2017\.json cannot be read as COCO annotations"):
        folder.annotations("val")

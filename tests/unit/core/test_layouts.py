"""Opening a data set in the layout that a recipe names."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from calibox_core.dataset import DATA_VARIABLE, CocoFolder, image_size
from calibox_core.errors import DatasetError
from calibox_core.kitti import KittiFolder
from calibox_core.layouts import DataLayout, layout_of_recipe, open_dataset
from calibox_core.voc import VocFolder
from tests.support.coco import make_coco_folder
from tests.support.kitti import make_kitti
from tests.support.voc import make_voc


def test_each_format_opens_its_folder(tmp_path: Path) -> None:
    coco = make_coco_folder(tmp_path / "coco").root
    voc, kitti = make_voc(tmp_path / "voc"), make_kitti(tmp_path / "kitti")
    assert open_dataset(str(coco), DataLayout()) == CocoFolder(coco)
    opened = open_dataset(str(voc.parent), DataLayout(format="voc"))
    assert isinstance(opened, VocFolder)
    assert opened.root == voc
    opened = open_dataset(str(kitti), DataLayout.model_validate({"format": "kitti", "kitti": {"val_fraction": 0.25}}))
    assert isinstance(opened, KittiFolder)
    assert opened.splits.val_fraction == 0.25


def test_a_name_is_looked_up_below_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_voc(tmp_path)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    assert open_dataset("VOCdevkit", DataLayout(format="voc")).root == tmp_path / "VOCdevkit"


@pytest.mark.parametrize(
    ("format_", "sentence"),
    [
        ("coco", "expected a folder with images/"),
        ("voc", r"expected VOCdevkit/VOC2007 or VOC2012; get VOCtrainval.*http"),
        ("kitti", r"expected training/image_2 and training/label_2; get data_object_image_2\.zip.*http"),
    ],
)
def test_what_is_not_there_is_named_with_the_place_to_get_it(tmp_path: Path, format_: Any, sentence: str) -> None:
    with pytest.raises(DatasetError, match=rf"nowhere.*{sentence}"):
        open_dataset(str(tmp_path / "nowhere"), DataLayout(format=format_))


def test_a_folder_in_another_layout_than_the_recipe_says_is_recognised(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="in the layout voc: set `format: voc`"):
        open_dataset(str(make_voc(tmp_path / "voc")), DataLayout())
    with pytest.raises(DatasetError, match="in the layout kitti: set `format: kitti`"):
        open_dataset(str(make_kitti(tmp_path / "kitti")), DataLayout())


def test_settings_of_another_format_are_refused() -> None:
    with pytest.raises(ValidationError, match="kitti is given, but format is coco"):
        DataLayout.model_validate({"kitti": {}})


def test_a_stored_recipe_gives_its_layout_and_an_old_one_is_coco() -> None:
    assert layout_of_recipe({"data": {"name": "bccd", "license": "MIT"}}) == DataLayout()
    stored = {"data": {"name": "x", "format": "voc", "voc": {"train": [[2007, "trainval"]]}, "kitti": None}}
    layout = layout_of_recipe(stored)
    assert layout.voc is not None
    assert layout.voc.train == ((2007, "trainval"),)


def test_the_size_of_an_image_is_read_from_its_first_bytes(tmp_path: Path) -> None:
    path = make_voc(tmp_path) / "VOC2007" / "JPEGImages" / "2007_test_000000.jpg"
    assert image_size(path) == (128, 96)
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"2007_test_000000\.jpg cannot be read"):
        image_size(path)


def test_the_size_is_that_of_the_upright_image_whatever_comes_before_it_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    image = Image.new("RGB", (40, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: lies on its side
    image.save(path, exif=exif)
    assert image_size(path) == (30, 40)
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)  # a JPEG comment of 64 KiB
    data = path.read_bytes()
    path.write_bytes(data[:2] + 2 * comment + data[2:])
    assert image_size(path) == (30, 40)

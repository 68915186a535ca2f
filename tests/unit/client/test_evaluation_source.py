"""What an evaluation is made on: two paths, or a data folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.source import open_source, parse_layout
from calibox_core.errors import DatasetError
from calibox_core.layouts import DataLayout
from tests.support.coco2017 import make_coco2017
from tests.support.oracle import write_coco


def test_two_paths_name_pictures_and_annotations(tmp_path: Path) -> None:
    document = write_coco(tmp_path, images=2)
    source = open_source(tmp_path / "images", tmp_path / "instances.json", None, "val", "coco")
    assert (source.images, source.annotations) == (tmp_path / "images", document)


def test_a_folder_gives_one_of_its_splits(tmp_path: Path) -> None:
    folder = make_coco2017(tmp_path / "coco")
    for split, count in (("train", 8), ("val", 4)):
        source = open_source(None, None, str(folder.root), split, "coco")
        names = [image["file_name"] for image in source.annotations["images"]]
        assert len(names) == count
        assert all(name.startswith(f"{split}2017/") and (source.images / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("images", "annotations", "data"),
    [(None, None, None), ("i", None, None), (None, "a", None), ("i", "a", "d"), ("i", None, "d"), (None, "a", "d")],
)
def test_half_a_source_and_two_sources_are_refused(images: Any, annotations: Any, data: Any) -> None:
    paths = [None if name is None else Path(name) for name in (images, annotations)]
    with pytest.raises(EvaluationError, match=r"by --data DIR, or by --images DIR and --annotations FILE"):
        open_source(*paths, data, "val", "coco")


def test_a_layout_is_a_name_or_the_keys_of_a_recipe() -> None:
    assert parse_layout("voc") == DataLayout(format="voc")
    text = '{"format": "kitti", "kitti": {"train": "a.txt", "val": "b.txt"}}'
    assert parse_layout(text) == DataLayout.model_validate(json.loads(text))


@pytest.mark.parametrize("text", ["yolo", "{", '{"format": "voc", "kitti": {}}', '{"voc": {"years": 3}}'])
def test_another_layout_is_a_sentence(text: str) -> None:
    with pytest.raises(EvaluationError, match=r"--layout .*; expected coco, voc, kitti, or a JSON object"):
        parse_layout(text)


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text("[]")
    with pytest.raises(DatasetError, match="not a COCO annotation file"):
        open_source(tmp_path, tmp_path / "instances.json", None, "val", "coco")
    with pytest.raises(DatasetError, match=r"no data set in .*nowhere"):
        open_source(None, None, str(tmp_path / "nowhere"), "val", "coco")

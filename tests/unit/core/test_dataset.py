"""Finding and reading COCO folders."""

import json
from pathlib import Path

import pytest

from calibox_core.dataset import (
    DATA_VARIABLE,
    CocoFolder,
    calibration_and_test_ids,
    find_dataset,
    read_annotations,
)
from calibox_core.errors import DatasetError

DOCUMENT: dict[str, list[object]] = {"images": [], "annotations": [], "categories": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "cells"
    (root / "images").mkdir(parents=True)
    (root / "instances_val.json").write_text(json.dumps(DOCUMENT))
    return root


def test_a_data_set_is_found_by_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    found = find_dataset(str(folder))
    assert found == CocoFolder(folder)
    assert found.images == folder / "images"
    assert found.annotations("val") == DOCUMENT


def test_a_data_set_is_found_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(folder.parent))
    assert find_dataset("cells") == CocoFolder(folder)


def test_the_folder_comes_before_the_name(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(folder.parent))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells" / "images").mkdir(parents=True)
    assert find_dataset("cells") == CocoFolder(Path("cells"))


def test_every_place_that_was_looked_in_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(DatasetError) as caught:
        find_dataset("absent")
    assert f"no data set in absent, {tmp_path / 'absent'}: expected a folder with images/" in str(caught.value)


def test_without_the_variable_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(DatasetError, match=r"no data set in absent: .*--data, or set CALIBOX_DATA"):
        find_dataset("absent")


def test_annotations_that_are_absent_are_named(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"instances_train\.json cannot be read as COCO annotations"):
        CocoFolder(folder).annotations("train")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_annotations_that_are_not_json_are_named(folder: Path, content: bytes) -> None:
    path = folder / "instances_train.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=r"instances_train\.json cannot be read as COCO annotations"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("document", "lacking"),
    [
        ({"images": [], "annotations": []}, "categories"),
        ({"images": []}, "annotations, categories"),
        ([], "images, annotations, categories"),
        (None, "images, annotations, categories"),
    ],
)
def test_a_document_of_another_kind_says_what_it_lacks(folder: Path, document: object, lacking: str) -> None:
    path = folder / "instances_train.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DatasetError, match=f"it lacks {lacking}$"):
        read_annotations(path)


def test_halves_are_taken_by_position_in_the_order_of_ids() -> None:
    assert calibration_and_test_ids([9, 2, 30, 4, 1]) == ([1, 4, 30], [2, 9])
    assert calibration_and_test_ids([]) == ([], [])

"""Bundles on disk: whole or refused, written whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest

from calibox_core.bundle import (
    MANIFEST_FILE,
    MODEL_FILE,
    find_bundles,
    new_bundle,
    read_bundle,
    read_manifest,
    sha256_of,
    write_manifest,
)
from calibox_core.errors import BundleError
from tests.support.manifests import small_manifest

MODEL = b"a graph with its weights"


def write(destination: Path, **changes: Any) -> Path:
    with new_bundle(destination) as folder:
        (folder / MODEL_FILE).write_bytes(MODEL)
        (folder / "extra").mkdir()
        (folder / "extra" / "notes.txt").write_text("more")
        write_manifest(folder, small_manifest(**changes))
    return destination


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "small" / "1")


def edit_manifest(folder: Path, **changes: Any) -> None:
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def everything_in(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_what_is_written_is_read(folder: Path) -> None:
    bundle = read_bundle(folder)
    assert bundle.model_path.read_bytes() == MODEL
    assert bundle.manifest.files == {
        MODEL_FILE: sha256_of(folder / MODEL_FILE),
        "extra/notes.txt": sha256_of(folder / "extra" / "notes.txt"),
    }
    assert bundle.manifest == small_manifest(files=bundle.manifest.files)


def test_nothing_but_the_bundle_is_left(folder: Path, tmp_path: Path) -> None:
    assert everything_in(tmp_path) == {
        "small",
        "small/1",
        "small/1/model.onnx",
        "small/1/manifest.json",
        "small/1/extra",
        "small/1/extra/notes.txt",
    }
    assert folder.stat().st_mode & 0o055 == 0o055  # a server under another user can read it


def test_engines_and_the_manifest_itself_carry_no_hash(folder: Path) -> None:
    (folder / "engines" / "openvino").mkdir(parents=True)
    (folder / "engines" / "openvino" / "model.bin").write_bytes(b"rebuildable")
    assert set(write_manifest(folder, small_manifest()).files) == {MODEL_FILE, "extra/notes.txt"}
    read_bundle(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, "extra/notes.txt"])
def test_an_altered_byte_is_refused(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=rf"{name} is not the file .*sha256 differs"):
        read_bundle(folder)


@pytest.mark.parametrize("name", [MODEL_FILE, "extra/notes.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        read_bundle(folder)


def test_a_folder_in_a_files_place_is_refused(folder: Path) -> None:
    (folder / MODEL_FILE).unlink()
    (folder / MODEL_FILE).mkdir()
    with pytest.raises(BundleError, match=r"lacks model\.onnx"):
        read_bundle(folder)


@pytest.mark.parametrize("escape", ["../secret", "extra/../../secret", "absolute", "link"])
def test_a_path_that_leaves_the_bundle_is_refused(folder: Path, tmp_path: Path, escape: str) -> None:
    secret = folder.parent / "secret"
    secret.write_text("not yours")
    if escape == "absolute":
        escape = str(secret)
    elif escape == "link":
        (folder / "link").symlink_to(secret)
    files = read_manifest(folder).files
    edit_manifest(folder, files={**files, escape: sha256_of(secret)})
    with pytest.raises(BundleError, match="outside the bundle"):
        read_bundle(folder)


def test_a_manifest_without_the_model_is_refused(folder: Path) -> None:
    edit_manifest(folder, files={})
    with pytest.raises(BundleError, match=r"lists no model\.onnx"):
        read_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"is not a bundle: manifest\.json cannot be read"):
        read_bundle(tmp_path)


def test_a_wrong_manifest_lists_its_fields(folder: Path) -> None:
    edit_manifest(folder, version="zero", colour="red")
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert "version: " in str(caught.value)
    assert "colour: " in str(caught.value)


def test_a_manifest_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / MANIFEST_FILE).write_bytes(b"\xff\xfe not json")
    with pytest.raises(BundleError, match="does not follow the manifest schema: file: "):
        read_bundle(folder)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / MODEL_FILE).write_bytes(MODEL)
        raise RuntimeError("the graph disagrees")

    with pytest.raises(RuntimeError, match="disagrees"), new_bundle(tmp_path / "small" / "1") as folder:
        fail(folder)
    assert everything_in(tmp_path) == {"small"}


def test_an_existing_destination_is_kept(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(BundleError, match="exists; choose another version"), new_bundle(folder):
        pytest.fail("the block must not run")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_destination_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    destination = tmp_path / "small" / "1"
    with pytest.raises(OSError, match="not empty"), new_bundle(destination):
        write(destination)
    read_bundle(destination)
    assert {path.name for path in destination.parent.iterdir()} == {"1"}


def test_bundles_are_found_in_the_order_of_name_and_version(tmp_path: Path) -> None:
    for name, version in [("b", "1"), ("a", "10"), ("a", "2"), ("a", "9")]:
        write(tmp_path / name / version, name=name, version=version)
    (tmp_path / "a" / "notes").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_bundles(tmp_path)]
    assert found == ["a/2", "a/9", "a/10", "b/1"]
    assert [path.name for path in find_bundles(tmp_path / "a")] == ["2", "9", "10"]
    assert find_bundles(tmp_path / "a" / "2") == [tmp_path / "a" / "2"]
    assert find_bundles(tmp_path / "a" / "notes") == []


def test_a_bundle_that_is_still_being_written_is_not_found(folder: Path) -> None:
    with new_bundle(folder.parent / "2") as scratch:
        (scratch / MODEL_FILE).write_bytes(MODEL)
        write_manifest(scratch, small_manifest(version="2"))
        assert find_bundles(folder.parents[1]) == [folder]
    assert find_bundles(folder.parents[1]) == [folder, folder.parent / "2"]

"""Records of built engines: found, checked, replaced as a whole."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import (
    RECORD_FILE,
    EngineError,
    EngineRecord,
    engine_folder,
    find_engines,
    new_engine,
    read_engine,
    write_record,
)
from tests.support.bundles import make_tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path))


def put_engine(bundle: Bundle, content: str = "engine", **changes: object) -> Path:
    folder = engine_folder(bundle.folder, "openvino", "fp32")
    fields = {
        "runtime": "openvino",
        "precision": "fp32",
        "runtime_version": "2026.4.1",
        "model_sha256": bundle.manifest.files["model.onnx"],
        "files": {},
        "calibox_version": "0.1.0",
        "created": datetime.now(UTC),
    }
    with new_engine(folder) as scratch:
        (scratch / "model.xml").write_text(content)
        write_record(scratch, EngineRecord.model_validate(fields | changes))
    return folder


def test_an_engine_is_found_with_its_record(bundle: Bundle) -> None:
    assert find_engines(bundle) == []
    folder = put_engine(bundle)
    assert find_engines(bundle) == [folder]
    built = read_engine(bundle, folder)
    assert built.title == "openvino fp32"
    assert list(built.record.files) == ["model.xml"]
    read_bundle(bundle.folder)  # engines do not change what the bundle is


def test_an_engine_of_another_model_is_refused_with_the_command_that_mends_it(bundle: Bundle) -> None:
    folder = put_engine(bundle, model_sha256="0" * 64)
    with pytest.raises(
        EngineError, match=r"another model\.onnx .* `calibox build .* --engine openvino --precision fp32`"
    ):
        read_engine(bundle, folder)


def test_a_changed_file_is_refused(bundle: Bundle) -> None:
    folder = put_engine(bundle)
    (folder / "model.xml").write_text("something else")
    with pytest.raises(EngineError, match=r"model\.xml is missing or not the file"):
        read_engine(bundle, folder)


def test_a_record_that_cannot_be_read_is_named(bundle: Bundle) -> None:
    folder = put_engine(bundle)
    (folder / RECORD_FILE).write_text("{}")
    with pytest.raises(EngineError, match=r"engine\.json cannot be read"):
        read_engine(bundle, folder)


def test_a_new_engine_replaces_the_old_one_and_a_failed_one_leaves_it(bundle: Bundle) -> None:
    folder = put_engine(bundle, "old")
    put_engine(bundle, "new")
    assert (folder / "model.xml").read_text() == "new"
    with pytest.raises(FileNotFoundError), new_engine(folder) as scratch:
        (scratch / "a folder that is not there" / "model.xml").write_text("half")
    assert (folder / "model.xml").read_text() == "new"
    assert [path.name for path in folder.parent.iterdir()] == ["fp32"]

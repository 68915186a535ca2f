"""Which model answers, and what becomes of a bundle that cannot be loaded."""

from pathlib import Path

import pytest

from calibox_core.bundle import MODEL_FILE
from calibox_core.errors import BundleError
from calibox_server.answers import model_document, models_document
from calibox_server.errors import ParameterError, UnknownModelError
from calibox_server.models import Models
from calibox_server.service import Service
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle


def load(folder: Path) -> Models:
    return Service.load(Settings(models=folder, instances=1, decode_threads=1)).models


def found(models: Models, name: str | None = None, version: str | None = None) -> tuple[str, str]:
    manifest = models.find(name, version).manifest
    return manifest.name, manifest.version


def test_the_only_model_needs_no_name_and_its_highest_version_is_the_default(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        make_tiny_bundle(tmp_path, version=version)
    models = load(tmp_path)
    assert found(models) == ("tiny", "10")
    assert found(models, "tiny") == ("tiny", "10")
    assert found(models, "tiny", "2") == ("tiny", "2")
    assert found(models, None, "9") == ("tiny", "9")
    assert [pipeline.manifest.version for pipeline in models] == ["10", "9", "2"]


def test_one_of_several_models_must_be_named(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path, name="a")
    make_tiny_bundle(tmp_path, name="b", seed=1)
    models = load(tmp_path)
    assert found(models, "b") == ("b", "1")
    with pytest.raises(ParameterError, match="several models; name one with `model`: a, b"):
        models.find(None, None)


@pytest.mark.parametrize(
    ("name", "version", "sentence"),
    [
        ("other", None, "there is no model 'other'; served are tiny"),
        ("../tiny", None, r"there is no model '\.\./tiny'"),
        ("tiny", "3", "model tiny has no version '3'; it has 1"),
        (None, "3", "model tiny has no version '3'; it has 1"),
    ],
)
def test_an_unknown_model_is_answered_with_those_that_exist(
    tmp_path: Path, name: str | None, version: str | None, sentence: str
) -> None:
    make_tiny_bundle(tmp_path)
    with pytest.raises(UnknownModelError, match=sentence):
        load(tmp_path).find(name, version)


def test_a_broken_bundle_never_takes_down_a_good_one(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path, name="good")
    (make_tiny_bundle(tmp_path, name="cut") / MODEL_FILE).unlink()
    (make_tiny_bundle(tmp_path, name="good", version="2") / "manifest.json").write_text("{}")
    models = load(tmp_path)
    assert found(models) == ("good", "1")
    with pytest.raises(UnknownModelError, match=r"model cut/1 could not be loaded: .* lacks model.onnx"):
        models.find("cut", None)
    with pytest.raises(UnknownModelError, match=r"model good/2 could not be loaded: .* does not follow"):
        models.find("good", "2")
    states = {(m["name"], m["version"]): (m["state"], m["default"]) for m in models_document(models)["models"]}
    assert states == {("good", "1"): ("ready", True), ("good", "2"): ("broken", False), ("cut", "1"): ("broken", False)}


def test_a_second_bundle_of_the_same_name_and_version_is_broken(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "first")
    make_tiny_bundle(tmp_path / "second", name="tiny")
    (tmp_path / "first" / "tiny" / "1").rename(tmp_path / "a")
    (tmp_path / "second" / "tiny" / "1").rename(tmp_path / "b")
    models = load(tmp_path)
    assert found(models) == ("tiny", "1")
    assert "is tiny/1 already" in models.broken[0].reason


def test_one_versions_folder_can_be_served(tmp_path: Path) -> None:
    assert found(load(make_tiny_bundle(tmp_path, version="4"))) == ("tiny", "4")


def test_nothing_to_serve_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"no bundle that can be served was found in .*; name the folder with --models"
    ):
        load(tmp_path / "absent")
    (make_tiny_bundle(tmp_path) / MODEL_FILE).write_bytes(b"changed")
    with pytest.raises(BundleError, match=r"no bundle that can be served.*: tiny/1: .*sha256 differs"):
        load(tmp_path)


def test_the_documents_say_what_a_client_needs(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    models = load(tmp_path)
    (summary,) = models_document(models)["models"]
    assert summary["classes"][0] == {"name": "class-0", "label_id": 1}
    assert summary["input"] == {"width": 128, "height": 96}
    assert summary["max_detections"] == 50
    whole = model_document(models, "tiny")
    assert whole["default_version"] == "1"
    assert whole["versions"][0]["manifest"]["files"].keys() == {MODEL_FILE}
    with pytest.raises(UnknownModelError, match="there is no model 'other'"):
        model_document(models, "other")

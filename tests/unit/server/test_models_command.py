"""`calibox models ls|verify`: what a folder holds, and what a server would stumble over."""

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner

from calibox_core.bundle import MODEL_FILE, read_manifest, write_manifest
from calibox_core.engines import RECORD_FILE, engine_folder
from calibox_core.errors import BundleError
from calibox_core.parity import Parity
from calibox_server.models_command import models
from tests.support.bundles import make_tiny_bundle
from tests.support.parities import small_parity

WIDE = {"COLUMNS": "300", "NO_COLOR": "1"}


def ask(verb: str, folder: Path, *, status: int = 0) -> list[dict[str, Any]]:
    done = CliRunner().invoke(models, [verb, "--models", str(folder), "--json"])
    assert done.exit_code == status, done.output
    return list(json.loads(done.output))


def test_a_whole_repository_is_listed_by_name_and_version(tmp_path: Path) -> None:
    for version in ("10", "9"):
        make_tiny_bundle(tmp_path, version=version)
    make_tiny_bundle(tmp_path, name="small", classes=2, height=64, width=96)
    (engine_folder(tmp_path / "tiny" / "9", "openvino", "int8")).mkdir(parents=True)
    (engine_folder(tmp_path / "tiny" / "9", "openvino", "int8") / RECORD_FILE).write_text("{}")
    items = ask("ls", tmp_path)
    assert [(i["name"], i["version"], i["classes"], i["input"], i["state"], i["engines"]) for i in items] == [
        ("small", "1", 2, [96, 64], "ok", []),
        ("tiny", "9", 3, [128, 96], "ok", ["openvino/int8"]),
        ("tiny", "10", 3, [128, 96], "ok", []),
    ]
    folder = tmp_path / "tiny" / "10"
    assert items[2]["bytes"] == sum((folder / name).stat().st_size for name in ("manifest.json", MODEL_FILE))


def test_the_table_has_a_row_for_each_version(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path)
    (make_tiny_bundle(tmp_path, name="cut") / MODEL_FILE).unlink()
    done = CliRunner().invoke(models, ["ls", "--models", str(tmp_path)], env=WIDE)
    assert done.exit_code == 0
    assert re.search(r"tiny +\S 1 +\S 3 +\S 128 x 96 +\S 0\.\d MB +\S - +\S - +\S ok", done.output), done.output
    assert "lacks model.onnx, which its manifest lists" in done.output


def test_a_broken_bundle_is_listed_with_its_reason(tmp_path: Path) -> None:
    (make_tiny_bundle(tmp_path, name="cut") / MODEL_FILE).write_bytes(b"")
    (make_tiny_bundle(tmp_path, name="odd") / "manifest.json").write_text("{}")
    cut, odd = ask("ls", tmp_path)
    assert (cut["state"], cut["classes"]) == ("broken", 3)
    assert "sha256 differs" in cut["problems"][0]
    assert (odd["name"], odd["version"], odd["classes"], odd["input"]) == ("odd", "1", None, None)
    assert "does not follow the manifest schema" in odd["problems"][0]


def test_verify_finds_what_hashes_cannot(tmp_path: Path) -> None:
    folder = make_tiny_bundle(tmp_path)
    assert [item["state"] for item in ask("verify", tmp_path)] == ["ok"]
    graph = onnx.load(folder / MODEL_FILE)
    for port in graph.graph.output:
        if port.name == "labels":
            port.name = "classes"
    for node in graph.graph.node:
        node.output[:] = ["classes" if name == "labels" else name for name in node.output]
    onnx.save(graph, folder / MODEL_FILE)
    write_manifest(folder, read_manifest(folder))
    record = engine_folder(folder, "openvino", "fp32")
    record.mkdir(parents=True)
    (record / RECORD_FILE).write_text("{}")
    assert [item["state"] for item in ask("ls", tmp_path)] == ["ok"]
    (item,) = ask("verify", tmp_path, status=1)
    assert len(item["problems"]) == 2
    assert "output labels is missing" in item["problems"][0]
    assert "cannot be read as the record of an engine" in item["problems"][1]


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^no bundle was found in .*; name the folder with --models$"):
        CliRunner().invoke(models, ["ls", "--models", str(tmp_path)], catch_exceptions=False)


def test_the_parity_of_a_bundle_is_told_in_a_few_words(tmp_path: Path) -> None:
    held, broken, other = (make_tiny_bundle(tmp_path, name=name) for name in ("held", "broken", "other"))
    for folder, told in ((held, small_parity("held/1")), (broken, small_parity("broken/1", holds=False))):
        certify(folder, told)
    certify(other, small_parity("held/1"))
    make_tiny_bundle(tmp_path, name="untold")
    parity = {item["name"]: item["parity"] for item in ask("verify", tmp_path)}
    assert parity == {
        "held": "holds from pytorch to http onnxruntime/fp32",
        "broken": "breaks at onnxruntime/fp32",
        "other": "of another bundle",
        "untold": None,
    }
    done = CliRunner().invoke(models, ["ls", "--models", str(tmp_path)], env=WIDE)
    assert "breaks at onnxruntime/fp32" in done.output


def certify(folder: Path, parity: Parity) -> None:
    manifest = read_manifest(folder)
    told = parity.model_copy(update={"model_sha256": manifest.files[MODEL_FILE]})
    write_manifest(folder, manifest.model_copy(update={"schema_version": 2, "parity": told}))

"""`calibox verify` across a bundle's engines: exact in float32, drift below, a sentence for what cannot be opened."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibox_core.bundle import MODEL_FILE, Bundle, read_bundle
from calibox_core.dataset import CocoFolder
from calibox_core.engines import EngineError
from calibox_export.engines.agreement import chosen_engines
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.onnxruntime_file import OnnxRuntimeBackend
from calibox_export.engines.openvino_ir import OpenVinoBackend, write_ir
from calibox_export.errors import ExportError
from calibox_export.low_precision.quantize import quantise_bundle
from calibox_export.verify import letterboxed_images, verify_bundle
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.deeper_network import make_deeper_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, folder: CocoFolder) -> Bundle:
    """With an engine in float32 and one in int8."""
    made = make_deeper_bundle(tmp_path_factory.mktemp("models"))
    build_engine(OpenVinoBackend(), made, BuildOrder(precision="fp32"))
    order = BuildOrder(precision="int8", folder=folder, dataset="rectangles", force=True)
    build_engine(OnnxRuntimeBackend(), made, order)
    return made


def test_an_engine_in_float32_must_agree_and_a_lower_one_may_drift(bundle: Bundle) -> None:
    # Noise: on plain areas many boxes have exactly equal keys, and engines may keep either.
    images = np.random.default_rng(0).integers(0, 256, (4, 96, 128, 3), np.uint8)
    report = verify_bundle(bundle, images, engines="all")
    assert report.same
    lower, exact = report.engines
    assert (lower.engine, exact.engine) == ("onnxruntime/int8", "openvino/fp32")
    assert exact.outcome is not None
    assert exact.outcome.compared > 0
    assert exact.outcome.different == 0
    assert lower.outcome is None
    assert exact.drift is not None
    assert lower.drift is not None
    assert exact.drift.score < 1e-5 < lower.drift.score <= lower.drift.score_max


def test_an_engine_with_other_weights_is_not_the_same_answer(
    bundle: Bundle,
    folder: CocoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def write_altered(graph: onnx.ModelProto, place: Path) -> None:
        (bias,) = (value for value in graph.graph.initializer if value.name.endswith("head_bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.05, bias.name))
        write_ir(graph, place)

    monkeypatch.setattr("calibox_export.engines.openvino_ir.write_ir", write_altered)
    altered = make_deeper_bundle(tmp_path / "models")
    build_engine(OpenVinoBackend(), altered, BuildOrder(precision="fp32"))
    calibox = CommandLine(monkeypatch, capsys)
    done = calibox("verify", altered.folder, "--data", folder.root, "--images", 4)
    assert done.code == 1
    assert "engines against the ONNX file" in done.out
    assert "not the same answer" in done.out
    assert calibox("verify", altered.folder, "--data", folder.root, "--images", 4, "--engines", "none").code == 0


def test_a_changed_engine_is_told_and_is_no_failure(
    tmp_path: Path, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_deeper_bundle(tmp_path / "models")
    built = build_engine(OpenVinoBackend(), made, BuildOrder(precision="fp32"))
    (built.folder / "model.bin").write_bytes(b"other weights")
    calibox = CommandLine(monkeypatch, capsys)
    done = calibox("verify", made.folder, "--data", folder.root, "--images", 2, "--json")
    (line,) = json.loads(done.out)["engines"]
    assert done.code == 0
    assert (line["engine"], line["drift"], line["outcome"]) == ("openvino/fp32", None, None)
    assert "build it again" in line["reason"]


def test_engines_are_chosen_by_runtime_or_by_precision(bundle: Bundle) -> None:
    def names(wanted: str) -> list[str]:
        return [f"{place.parent.name}/{place.name}" for place in chosen_engines(bundle, wanted)]

    assert names("all") == ["onnxruntime/int8", "openvino/fp32"]
    assert names("openvino") == ["openvino/fp32"]
    assert names("onnxruntime/int8") == ["onnxruntime/int8"]
    assert names("none") == []
    with pytest.raises(EngineError, match="has no engine tensorrt; it has onnxruntime/int8, openvino/fp32"):
        names("tensorrt")


def test_torch_is_not_compared_with_a_bundle_of_lower_precision(folder: CocoFolder, tmp_path: Path) -> None:
    made = make_deeper_bundle(tmp_path / "models")
    order = BuildOrder(precision="fp16", folder=folder, dataset="rectangles", force=True)
    lower = quantise_bundle(made, order)
    images = letterboxed_images(folder, "val", lower.manifest.input, 2)
    assert verify_bundle(lower, images).same
    with pytest.raises(ExportError, match=r"is in fp16, and PyTorch computes in float32: .* made from, version 1"):
        verify_bundle(lower, images, tmp_path / "last.ckpt")
    assert read_bundle(lower.folder).manifest.files[MODEL_FILE] != made.manifest.files[MODEL_FILE]

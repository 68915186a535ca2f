"""`calibox quantize`: a bundle of lower precision, whole or not at all; and ONNX Runtime's engines."""

from pathlib import Path

import onnx
import pytest

from calibox_core.bundle import MODEL_FILE, Bundle, find_bundles, read_bundle
from calibox_core.dataset import CocoFolder
from calibox_core.engines import EngineError, find_engines
from calibox_export.engines import onnxruntime_file
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.onnxruntime_file import OnnxRuntimeBackend
from calibox_export.engines.openvino_ir import OpenVinoBackend
from calibox_export.low_precision import quantize as quantize_module
from calibox_export.low_precision.quantize import quantise_bundle
from calibox_export.low_precision.stored import stored_precision
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.deeper_network import make_deeper_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_deeper_bundle(tmp_path / "models")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data"))


def order(folder: CocoFolder, precision: str = "int8", **changes: object) -> BuildOrder:
    fields = {"precision": precision, "folder": folder, "dataset": "rectangles", "force": True, **changes}
    return BuildOrder(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_lower_bundle_is_the_next_version_and_says_what_it_was_made_from(
    bundle: Bundle, folder: CocoFolder, precision: str
) -> None:
    made = quantise_bundle(bundle, order(folder, precision))
    assert made.folder == bundle.folder.parent / "2"
    manifest = made.manifest
    assert (manifest.precision, manifest.version) == (precision, "2")
    assert manifest.lowered_from is not None
    assert manifest.lowered_from.version == "1"
    assert manifest.lowered_from.model_sha256 == bundle.manifest.files[MODEL_FILE]
    accuracy = manifest.lowered_from.accuracy
    assert (accuracy.dataset, accuracy.images) == ("rectangles val", 4)
    assert {"AP", "AP50", "AP75", "AP90", "pearson_score"} <= set(accuracy.engine)
    assert manifest.measured["rectangles val"]["AP"] == accuracy.engine["AP"]
    graph = onnx.load(made.model_path)
    assert stored_precision(graph) == precision
    assert {entry.key: entry.value for entry in graph.metadata_props}.get("version", "2") == "2"


def test_what_loses_more_than_the_limit_leaves_nothing_behind(
    bundle: Bundle, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise EngineError("loses 3.00 points of AP")

    monkeypatch.setattr(quantize_module, "check_loss", lost)
    with pytest.raises(EngineError, match=r"3\.00 points"):
        quantise_bundle(bundle, order(folder, force=False))
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["1"]


def test_a_precision_that_cannot_be_measured_here_is_not_published(bundle: Bundle, folder: CocoFolder) -> None:
    with pytest.raises(EngineError, match="ONNX Runtime cannot run this graph in bf16 on this CPU"):
        quantise_bundle(bundle, order(folder, "bf16"))
    assert find_bundles(bundle.folder.parent) == [bundle.folder]


def test_engines_of_a_lower_bundle_keep_its_precision(bundle: Bundle, folder: CocoFolder) -> None:
    made = quantise_bundle(bundle, order(folder))
    for backend in (OpenVinoBackend(), OnnxRuntimeBackend()):
        built = build_engine(backend, made, order(folder, calibration_images=1))
        assert built.record.accuracy is not None
        assert built.record.accuracy.score_drift < 0.02
    assert (find_engines(made)[0] / MODEL_FILE).read_bytes() == made.model_path.read_bytes()
    with pytest.raises(EngineError, match="in int8 already: build it with --precision int8"):
        build_engine(OpenVinoBackend(), made, BuildOrder(precision="fp32"))
    with pytest.raises(EngineError, match="in int8 already"):
        quantise_bundle(made, order(folder, "fp16"))


def test_onnxruntime_keeps_an_int8_engine_with_its_accuracy(bundle: Bundle, folder: CocoFolder) -> None:
    built = build_engine(OnnxRuntimeBackend(), bundle, order(folder))
    assert built.folder == bundle.folder / "engines" / "onnxruntime" / "int8"
    assert set(built.record.files) == {MODEL_FILE}
    assert built.record.accuracy is not None
    assert 0 < built.record.accuracy.score_drift < 0.02
    assert stored_precision(onnx.load(built.folder / MODEL_FILE)) == "int8"


def test_a_machine_without_the_arithmetic_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_file, "has_int8_products", lambda: False)
    with pytest.raises(EngineError, match="this CPU has no INT8 products"):
        OnnxRuntimeBackend().check("int8")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="install onnxruntime-gpu in its place"):
        OnnxRuntimeBackend().check("fp16")


def test_the_command_publishes_and_shows_both_sides(
    bundle: Bundle, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calibox = CommandLine(monkeypatch, capsys)
    options = ("--data", folder.root, "--force", "--version", 7, "--output", bundle.folder.parents[1] / "other")
    done = calibox("quantize", bundle.folder, "--precision", "int8", *options)
    assert done.code == 0, done.out + done.err
    assert "model.onnx in int8" in done.out
    assert "AP75" in done.out
    assert read_bundle(bundle.folder.parents[1] / "other" / "tiny" / "7").manifest.precision == "int8"

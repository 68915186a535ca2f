"""Which engine serves: by name, by measurement, by memory, or the ONNX file where nothing else can."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from calibox_core.bundle import MODEL_FILE, Bundle, read_bundle
from calibox_core.engines import EngineError, EngineRecord, Runtime, engine_folder, new_engine, write_record
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.onnxruntime_file import OnnxRuntimeBackend
from calibox_export.engines.openvino_ir import OpenVinoBackend
from calibox_export.low_precision.quantize import quantise_bundle
from calibox_server import engine_choice
from calibox_server.choice_cache import ChoiceCache
from calibox_server.engine import Engine, EngineInput, EngineOutput
from calibox_server.engine_choice import EngineOpener, best, images_per_second
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.openvino_engine import OpenVinoEngine
from calibox_server.settings import Settings
from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder
from tests.support.deeper_network import make_deeper_bundle

Rate = Callable[[Engine], float]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path / "models"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines that were measured; OpenVINO is made out to be twice as fast."""
    names: list[str] = []

    def rate(engine: Engine, _: object) -> float:
        names.append(engine.name)
        return 20.0 if isinstance(engine, OpenVinoEngine) else 10.0

    monkeypatch.setattr(engine_choice, "images_per_second", rate)
    return names


def opener(tmp_path: Path, **settings: object) -> EngineOpener:
    return EngineOpener(Settings(**settings), ChoiceCache(tmp_path / "cache" / "engines.json"))


def test_without_built_engines_auto_serves_the_onnx_file_unmeasured(
    bundle: Bundle, tmp_path: Path, measured: list[str]
) -> None:
    assert isinstance(opener(tmp_path)(bundle), OnnxRuntimeEngine)
    assert measured == []


def test_auto_takes_the_faster_one_says_why_and_remembers(bundle: Bundle, tmp_path: Path, measured: list[str]) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path)(bundle), OpenVinoEngine)
        assert isinstance(opener(tmp_path)(bundle), OpenVinoEngine)
    assert len(measured) == 2  # the second start asked nobody
    assert [line["remembered"] for line in logs] == [False, True]
    assert sorted(logs[0]["images_per_second"].values()) == [10.0, 20.0]
    assert isinstance(opener(tmp_path, instances=3)(bundle), OpenVinoEngine)
    assert len(measured) == 4  # other settings, other rates


def test_an_engine_of_another_model_leaves_auto_the_onnx_file(
    bundle: Bundle, tmp_path: Path, measured: list[str]
) -> None:
    built = build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    (built.folder / "model.bin").write_bytes(b"other weights")
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path)(bundle), OnnxRuntimeEngine)
    assert logs[0]["event"] == "engine_unusable"
    assert "calibox build" in logs[0]["reason"]


def test_a_named_engine_that_is_not_there_falls_back_or_fails_as_configured(bundle: Bundle, tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path, engine="openvino")(bundle), OnnxRuntimeEngine)
    assert logs[0]["event"] == "engine_fallback"
    with pytest.raises(EngineError, match=r"no engine for openvino in precision bf16: build one with `calibox build"):
        opener(tmp_path, engine="openvino", precision="bf16", engine_fallback=False)(bundle)


def test_a_named_engine_is_taken_whatever_its_speed(bundle: Bundle, tmp_path: Path) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    assert isinstance(opener(tmp_path, engine="openvino")(bundle), OpenVinoEngine)
    assert isinstance(opener(tmp_path, engine="onnxruntime")(bundle), OnnxRuntimeEngine)


@pytest.mark.parametrize("runtime", ["tensorrt", "tensorrt-rtx"])
def test_a_tensorrt_engine_where_no_gpu_is_leaves_the_onnx_file_or_fails_as_configured(
    bundle: Bundle, tmp_path: Path, runtime: Runtime
) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    write_tensorrt_record(bundle, runtime)
    with capture_logs() as logs:
        assert isinstance(opener(tmp_path)(bundle), OnnxRuntimeEngine)
        assert isinstance(opener(tmp_path, engine=runtime)(bundle), OnnxRuntimeEngine)
    assert [line["event"] for line in logs] == ["engine_unusable", "engine_fallback"]
    with pytest.raises(EngineError, match=r"pip install .calibox\[|no GPU"):
        opener(tmp_path, engine=runtime, engine_fallback=False)(bundle)


def test_an_engine_that_was_not_chosen_frees_what_it_holds(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
) -> None:
    closed: list[str] = []

    class Slow:
        name, max_batch, instances, in_flight = "slow", 1, 1, 2

        def run(self, batch: EngineInput) -> EngineOutput:
            raise AssertionError(batch)

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setattr(engine_choice, "open_tensorrt", lambda *_, **__: Slow())
    write_tensorrt_record(bundle, "tensorrt")
    assert isinstance(opener(tmp_path)(bundle), OnnxRuntimeEngine)
    assert (len(measured), closed) == (2, ["slow"])


def write_tensorrt_record(bundle: Bundle, runtime: Runtime) -> None:
    with new_engine(engine_folder(bundle.folder, runtime, "fp32")) as scratch:
        (scratch / "model.plan").write_bytes(b"a plan")
        record = EngineRecord(
            runtime=runtime,
            precision="fp32",
            runtime_version="11.4.0",
            needs=("sm_89",),
            model_sha256=bundle.manifest.files[MODEL_FILE],
            files={},
            calibox_version="0.1.0",
            created=datetime.now(UTC),
        )
        write_record(scratch, record)


def test_an_unwritable_cache_is_no_error(bundle: Bundle, tmp_path: Path, measured: list[str]) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    (tmp_path / "file").write_text("not a folder")
    assert isinstance(EngineOpener(Settings(), ChoiceCache(tmp_path / "file" / "engines.json"))(bundle), OpenVinoEngine)
    (tmp_path / "broken.json").write_text("{")
    assert ChoiceCache(tmp_path / "broken.json").read(["key"], ["a"]) is None


def test_the_onnx_file_stays_unless_another_is_clearly_faster() -> None:
    assert best({"onnx": 10.0, "other": 10.4}, first="onnx") == "onnx"
    assert best({"onnx": 10.0, "other": 11.0}, first="onnx") == "other"


def test_rates_count_the_images_of_every_run(bundle: Bundle) -> None:
    class Counted:
        name, max_batch, instances, in_flight = "counted", 4, 2, 2

        def run(self, batch: EngineInput) -> EngineOutput:
            assert len(batch.images) in (1, 4)
            return EngineOutput(*[batch.fusion] * 6)

    ticks = iter([0.0, *[2.0] * 100])
    # Each of two threads makes one run of four images, and the clock says that two seconds went by.
    assert images_per_second(Counted(), bundle.manifest, clock=lambda: next(ticks)) == pytest.approx(4.0)


def test_a_built_onnxruntime_engine_serves_where_its_precision_is_asked_for(tmp_path: Path) -> None:
    deeper = make_deeper_bundle(tmp_path / "models")
    folder = make_coco_folder(tmp_path / "data")
    build_engine(
        OnnxRuntimeBackend(), deeper, BuildOrder(precision="int8", folder=folder, dataset="rectangles", force=True)
    )
    lower = opener(tmp_path, engine="onnxruntime", precision="int8", engine_fallback=False)(deeper)
    assert lower.name.endswith("int8 (CPU)")
    assert "int8" not in opener(tmp_path, engine="onnxruntime")(deeper).name


def test_auto_measures_a_built_onnxruntime_engine_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deeper = make_deeper_bundle(tmp_path / "models")
    folder = make_coco_folder(tmp_path / "data")
    build_engine(
        OnnxRuntimeBackend(), deeper, BuildOrder(precision="int8", folder=folder, dataset="rectangles", force=True)
    )
    monkeypatch.setattr(engine_choice, "images_per_second", lambda engine, _: 20.0 if "int8" in engine.name else 10.0)
    assert "int8" in opener(tmp_path)(deeper).name


def test_the_file_of_a_lower_bundle_is_of_its_own_precision(tmp_path: Path) -> None:
    folder = make_coco_folder(tmp_path / "data")
    order = BuildOrder(precision="int8", folder=folder, dataset="rectangles", force=True)
    lower = quantise_bundle(make_deeper_bundle(tmp_path / "models"), order)
    for settings in ({}, {"engine": "onnxruntime", "precision": "int8", "engine_fallback": False}):
        assert opener(tmp_path, **settings)(lower).name.endswith("int8 (CPU)")


def test_a_missing_provider_falls_back_to_the_cpu_or_fails_as_configured(bundle: Bundle, tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert opener(tmp_path, onnxruntime_provider="cuda")(bundle).name.endswith("(CPU)")
    assert logs[0]["event"] == "engine_fallback"
    assert "onnxruntime-gpu" in logs[0]["reason"]
    with pytest.raises(EngineError, match="has no CUDAExecutionProvider"):
        opener(tmp_path, onnxruntime_provider="cuda", engine_fallback=False)(bundle)

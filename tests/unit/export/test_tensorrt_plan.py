"""TensorRT and TensorRT-RTX as `calibox build` sees them, without a GPU; the package is a recording one."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from calibox_core.bundle import Bundle, read_bundle, sha256_of
from calibox_core.engines import EngineError, find_engines
from calibox_export.engines import tensorrt_plan
from calibox_export.engines.backend import Work
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.tensorrt_api import import_tensorrt
from calibox_export.engines.tensorrt_plan import TensorRtBackend, TensorRtRtxBackend
from tests.support.bundles import make_tiny_bundle
from tests.support.recording_tensorrt import BuilderFlag, RecordingTensorRt

LIBRARY = b"the operator"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path / "models"))


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RecordingTensorRt:
    """An L4, TensorRT 10.15, and a cache folder of its own."""
    package = RecordingTensorRt()
    monkeypatch.setattr(tensorrt_plan, "gpu_capability", lambda: "sm_89")
    monkeypatch.setattr(tensorrt_plan, "import_tensorrt", lambda runtime: package)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CALIBOX_KERNELS", str(tmp_path / "kernels"))
    return package


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Where a build leaves it."""
    path = tmp_path / "kernels" / "libcalibox_trt_plugins.so"
    path.parent.mkdir()
    path.write_bytes(LIBRARY)
    return path


def order(**changes: object) -> BuildOrder:
    return BuildOrder(**{"precision": "fp32", **changes})  # type: ignore[arg-type]


def test_an_engine_lies_in_the_bundle_with_the_plugin_beside_it(
    bundle: Bundle, trt: RecordingTensorRt, plugin: Path, tmp_path: Path
) -> None:
    built = build_engine(TensorRtBackend(), bundle, order(max_batch=4))
    assert find_engines(bundle) == [built.folder]
    assert {path.name for path in built.folder.iterdir()} == {"model.plan", "libcalibox_trt_plugins.so", "engine.json"}
    assert built.record.plugin_sha256 == sha256_of(plugin) == built.record.files["libcalibox_trt_plugins.so"]
    assert built.record.needs == ("sm_89",)
    assert built.record.runtime_version == "10.15.1"
    assert trt.profile["images"][-1] == (4, 96, 128, 3)
    assert [path.name for path in (tmp_path / "cache" / "calibox").iterdir()] == ["tensorrt-10.15.1-sm_89.timing"]


def test_a_plugin_that_is_inside_is_not_beside(bundle: Bundle, trt: RecordingTensorRt, plugin: Path) -> None:
    built = build_engine(TensorRtBackend(), bundle, order(embed_plugin=True))
    assert {path.name for path in built.folder.iterdir()} == {"model.plan", "engine.json"}
    assert built.record.plugin_sha256 == sha256_of(plugin)
    assert BuilderFlag.VERSION_COMPATIBLE in trt.config.flags


def test_without_a_plugin_the_function_is_built(bundle: Bundle, trt: RecordingTensorRt) -> None:
    built = build_engine(TensorRtBackend(), bundle, order())
    assert {path.name for path in built.folder.iterdir()} == {"model.plan", "engine.json"}
    assert built.record.plugin_sha256 is None
    assert trt.libraries == []


def test_tensorrt_builds_for_this_machine_alone(bundle: Bundle, trt: RecordingTensorRt) -> None:
    with pytest.raises(EngineError, match="leave --target out"):
        build_engine(TensorRtBackend(), bundle, order(targets=("sm_86",)))
    assert find_engines(bundle) == []


def test_tensorrt_without_a_gpu_points_to_the_runtime_that_needs_none(
    bundle: Bundle, trt: RecordingTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_plan, "gpu_capability", lambda: None)
    with pytest.raises(EngineError, match=r"sees none here \(nvidia-smi.*--engine tensorrt-rtx --target sm_89"):
        build_engine(TensorRtBackend(), bundle, order())


def test_bfloat16_needs_a_gpu_that_has_it(
    bundle: Bundle, trt: RecordingTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "sm_75 has no bfloat16 arithmetic, which began with sm_80: take --precision fp16"
    TensorRtBackend().check("bf16")
    monkeypatch.setattr(tensorrt_plan, "gpu_capability", lambda: "sm_75")
    with pytest.raises(EngineError, match=text):
        TensorRtBackend().check("bf16")
    with pytest.raises(EngineError, match=text):
        TensorRtRtxBackend().write(Work(bundle, "bf16", lambda: iter(()), targets=("sm_89", "sm_75")), tmp_path)


def test_rtx_wants_to_know_for_which_gpu(
    bundle: Bundle, trt: RecordingTensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_plan, "gpu_capability", lambda: None)
    with pytest.raises(EngineError, match="name those that will run it, such as --target sm_89"):
        build_engine(TensorRtRtxBackend(), bundle, order())


@pytest.mark.parametrize("changes", [{"targets": ("sm_89",)}, {"force": True}])
def test_half_precision_is_unmeasured_only_for_other_machines_and_by_force(
    changes: dict[str, object], bundle: Bundle, trt: RecordingTensorRt
) -> None:
    with pytest.raises(EngineError, match="kept only after it was measured: name a data set with --data"):
        build_engine(TensorRtRtxBackend(), bundle, order(precision="fp16", **changes))


def test_rtx_has_no_plugins(bundle: Bundle, trt: RecordingTensorRt, plugin: Path) -> None:
    with pytest.raises(EngineError, match="leave --embed-plugin out"):
        build_engine(TensorRtRtxBackend(), bundle, order(embed_plugin=True, targets=("sm_89",)))


def test_a_package_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"^tensorrt is not installed.*: pip install 'calibox\[gpu\]'$"):
        TensorRtBackend().version()


def test_a_package_without_its_libraries_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bindings are on PyPI, the libraries in NVIDIA's index."""
    text = 'raise FileNotFoundError("Could not find: libnvinfer.so.10")\n'
    (tmp_path / "tensorrt.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        EngineError, match=r"libraries .* are not found \(Could not find: libnvinfer.so.10\).*NVIDIA's own"
    ):
        import_tensorrt("tensorrt")
    (tmp_path / "tensorrt.py").write_text("import tensorrt_libraries_of_nvidia\n")
    with pytest.raises(EngineError, match=r"No module named 'tensorrt_libraries_of_nvidia'"):
        import_tensorrt("tensorrt")


def test_a_package_that_is_there_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("tensorrt_rtx")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", package)
    assert import_tensorrt("tensorrt-rtx") is package


def test_an_engine_is_not_run_where_there_is_no_gpu(
    trt: RecordingTensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert TensorRtBackend().open(tmp_path, "fp32") is None
    assert TensorRtRtxBackend().open(tmp_path, "fp32") is None

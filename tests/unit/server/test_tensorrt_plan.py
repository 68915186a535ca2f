"""Engines of TensorRT that must not be used here are told in one sentence, before anything runs."""

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from calibox_core.engines import EngineError
from calibox_core.manifest import InputSpec
from calibox_core.nms import NmsAttributes
from calibox_server.cuda.driver import Device
from calibox_server.tensorrt.api import import_tensorrt
from calibox_server.tensorrt.engine import TensorRtEngine, open_tensorrt
from calibox_server.tensorrt.plan import Plan
from tests.support.fake_tensorrt import FakeTensorRt, toy_network, write_engine
from tests.support.manifests import small_manifest
from tests.support.memory_driver import MemoryDriver

LIBRARY_SHA256 = hashlib.sha256(b"a library").hexdigest()
MANIFEST = small_manifest(input=InputSpec(height=32, width=32), nms=NmsAttributes(max_detections=5))


def load(folder: Path, trt: FakeTensorRt | None = None, **changes: Any) -> Plan:
    driver = MemoryDriver()
    built = write_engine(folder, MANIFEST, **changes)
    return Plan(trt or FakeTensorRt(driver, toy_network(5)), built, MANIFEST, Device("Toy 1", "sm_90", 1))


def test_a_plan_knows_its_batches_and_its_tensors(tmp_path: Path) -> None:
    plan = load(tmp_path, profiles=[[1, 1], [4, 16]])
    assert [size for size in range(18) if plan.takes(size)] == [1, *range(4, 17)]
    assert plan.max_batch == 16
    assert {name: tensor.shape(2) for name, tensor in plan.tensors.inputs.items()} == {
        "images": (2, 32, 32, 3),
        "fusion": (2, 3),
        "score_threshold": (2,),
        "iou_threshold": (2,),
        "refine_steps": (2,),
    }
    assert plan.tensors.inputs["images"].size(2) == 6144  # 2 x 32 x 32 x 3 bytes
    assert plan.tensors.outputs["boxes"].size(2) == 160  # 2 x 5 x 4 float32


@pytest.mark.parametrize("version", ["11.4.0.2", "11.4.1"])
def test_the_minor_version_that_built_a_plan_reads_it(tmp_path: Path, version: str) -> None:
    assert load(tmp_path, runtime_version=version).max_batch == 8


@pytest.mark.parametrize("version", ["11.3.0.2", "10.4.0", "11.14.0"])
def test_no_other_version_does(tmp_path: Path, version: str) -> None:
    minor = re.escape(".".join(version.split(".")[:2]))
    with pytest.raises(
        EngineError,
        match=rf"was built by tensorrt {re.escape(version)}, and 11\.4\.0\.2 is installed: install that version "
        rf"\(pip install 'tensorrt=={minor}\.\*'\), or build it again on this machine with `calibox build "
        rf"{re.escape(str(tmp_path))} --engine tensorrt --precision fp16`$",
    ):
        load(tmp_path, runtime_version=version)


def test_a_plan_runs_on_the_devices_it_was_built_for(tmp_path: Path) -> None:
    load(tmp_path / "any", needs=())
    load(tmp_path / "several", needs=("sm_86", "sm_90"))
    with pytest.raises(
        EngineError, match=r"was built for GPUs of sm_86 or sm_89, and this one is sm_90: build it again"
    ):
        load(tmp_path / "others", needs=("sm_86", "sm_89"))


def test_a_plan_that_is_not_the_one_of_its_record_is_not_read(tmp_path: Path) -> None:
    built = write_engine(tmp_path, MANIFEST)
    driver = MemoryDriver()
    for spoil in (lambda path: path.write_bytes(path.read_bytes() + b" "), Path.unlink):
        spoil(built.folder / "model.plan")
        with pytest.raises(
            EngineError, match=r"model\.plan is missing or not the file that the engine's record describes"
        ):
            Plan(FakeTensorRt(driver, toy_network(5)), built, MANIFEST, driver.device)


def test_the_plugin_beside_a_plan_is_loaded_if_it_is_the_one(tmp_path: Path) -> None:
    load(tmp_path / "right", plugin="beside", plugin_sha256=LIBRARY_SHA256)
    for wrong in ("0" * 64, None):
        with pytest.raises(
            EngineError, match=r"libcalibox_trt_plugins\.so is not the plugin that the engine was built"
        ):
            load(tmp_path / str(wrong), plugin="beside", plugin_sha256=wrong)


def test_a_plugin_inside_a_plan_may_run_where_the_record_says_that_there_is_one(tmp_path: Path) -> None:
    load(tmp_path / "said", plugin="inside", plugin_sha256="1" * 64)
    with pytest.raises(EngineError, match=r"cannot read the plan .*: the plugin CalibratedNMS was not found"):
        load(tmp_path / "unsaid", plugin="inside")


@pytest.mark.parametrize("call", ["Runtime", "load_library", "deserialize_cuda_engine"])
def test_tensorrt_says_why_it_takes_no_plan(tmp_path: Path, call: str) -> None:
    trt = FakeTensorRt(MemoryDriver(), toy_network(5))
    trt.fail_at.add(call)
    library = {"plugin": "beside", "plugin_sha256": LIBRARY_SHA256}
    with pytest.raises(EngineError, match=rf"^tensorrt (does not start|cannot (load|read) .*): {call} said no$"):
        load(tmp_path, trt, **library)


@pytest.mark.parametrize("call", ["create_execution_context", "set_input_shape"])
def test_tensorrt_says_why_it_makes_no_context(tmp_path: Path, call: str) -> None:
    driver = MemoryDriver()
    trt = FakeTensorRt(driver, toy_network(5))
    trt.fail_at.add(call)
    with pytest.raises(EngineError, match=rf"tensorrt 11\.4\.0\.2 fp16 \(Toy 1\) .*: {call} said no"):
        TensorRtEngine(trt, driver, write_engine(tmp_path, MANIFEST), MANIFEST)
    assert driver.live == 0


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"scores": None}, "output scores is missing"),
        ({"refine_steps": None}, "input refine_steps is missing"),
        ({"fusion": ("HALF", [-1, 3])}, r"input fusion is tensor\(half\) \[B, 3\], expected tensor\(float\) \[B, 3\]"),
        ({"images": ("UINT8", [4, 32, 32, 3])}, r"input images is tensor\(uint8\) \[4, 32, 32, 3\], expected"),
        ({"boxes": ("FLOAT", [-1, 6, 4])}, r"output boxes is tensor\(float\) \[B, 6, 4\], expected"),
    ],
)
def test_a_plan_of_another_graph_is_refused(tmp_path: Path, tensors: dict[str, Any], said: str) -> None:
    with pytest.raises(EngineError, match=rf"fp16: the graph of small/1 .* {said}.* then build the engine again$"):
        load(tmp_path, tensors=tensors)


def test_inputs_in_host_memory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="wants refine_steps in host memory, because shapes depend on it: export"):
        load(tmp_path, host=["refine_steps"])


def test_without_the_package_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r"^tensorrt is not installed; .* pip install 'calibox\[gpu\]'$"):
        open_tensorrt(write_engine(tmp_path, MANIFEST), MANIFEST)
    with pytest.raises(EngineError, match=r"^tensorrt_rtx is not installed; .* pip install 'calibox\[tensorrt-rtx\]'$"):
        import_tensorrt("tensorrt-rtx")


def test_nvidias_package_itself_says_why_it_takes_no_plan(tmp_path: Path) -> None:
    # Runs without a GPU, and shows that our logger is one that NVIDIA's package takes.
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    built = write_engine(tmp_path, MANIFEST, runtime="tensorrt-rtx", runtime_version=trt.__version__)
    with pytest.raises(EngineError, match=r"^tensorrt-rtx cannot read the plan in .*: IRuntime::deserializeCudaEngine"):
        Plan(trt, built, MANIFEST, Device("Toy 1", "sm_90", 1))

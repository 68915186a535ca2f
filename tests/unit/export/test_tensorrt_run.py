"""An engine as a function of arrays, by a runtime that computes in this machine's memory."""

import ctypes
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibox_core.engines import EngineError
from calibox_export.engines import tensorrt_run
from calibox_export.engines.tensorrt_api import ErrorTexts
from calibox_export.engines.tensorrt_run import gpu_capability, open_content, open_plan
from tests.support.recording_tensorrt import RecordingTensorRt, Severity

Mode = Enum("Mode", ["INPUT", "OUTPUT"])
Kind = Enum("Kind", ["FLOAT", "INT32", "UINT8"])
Validity = Enum("Validity", ["VALID", "INVALID"])
TENSORS = {"images": (Mode.INPUT, Kind.UINT8), "sums": (Mode.OUTPUT, Kind.FLOAT), "counts": (Mode.OUTPUT, Kind.INT32)}
CPU = torch.device("cpu")


class Context:
    """Sums of the pixels of each image, and how many there are; ``runs`` says whether a run succeeds."""

    def __init__(self, *, runs: bool = True) -> None:
        self.runs = runs
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shape[0],)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.addresses.keys() == TENSORS.keys()
        images = self._view("images", ctypes.c_uint8, self.shape)
        self._view("sums", ctypes.c_float, self.shape[:1])[:] = images.reshape(len(images), -1).sum(axis=1)
        self._view("counts", ctypes.c_int32, self.shape[:1])[:] = images[0].size
        return self.runs

    def _view(self, name: str, kind: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        pointer = ctypes.cast(self.addresses[name], ctypes.POINTER(kind))
        return np.ctypeslib.as_array(pointer, shape)


class Runtime:
    """IRuntime."""

    def __init__(self, context: Context | None, *, engine: bool = True, loads: bool = True) -> None:
        self.context, self.engine, self.loads = context, engine, loads
        self.engine_host_code_allowed = False
        self.loaded: list[str] = []

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(load_library=lambda path: self.loaded.append(path) or self.loads or None)

    def deserialize_cuda_engine(self, content: bytes) -> Any:
        assert content == b"plan"
        names = list(TENSORS)
        engine = SimpleNamespace(
            num_io_tensors=len(names),
            get_tensor_name=names.__getitem__,
            get_tensor_mode=lambda name: TENSORS[name][0],
            get_tensor_dtype=lambda name: TENSORS[name][1],
            create_execution_context=lambda: self.context,
        )
        return engine if self.engine else None


def errors() -> ErrorTexts:
    found = ErrorTexts(RecordingTensorRt())  # type: ignore[arg-type]
    found.logger.log(Severity.ERROR, "the reason")
    return found


def test_arrays_go_in_and_come_out(tmp_path: Path) -> None:
    runtime = Runtime(Context())
    graph = open_content(runtime, b"plan", tmp_path / "none.so", errors(), CPU)
    assert runtime.engine_host_code_allowed
    assert runtime.loaded == []
    for batch in (1, 3):
        images = np.arange(batch * 12, dtype=np.uint8).reshape(batch, 2, 2, 3)
        found = graph({"images": images, "fusion": np.zeros((batch, 3), np.float32)})  # which this engine does not read
        np.testing.assert_array_equal(found["sums"], images.reshape(batch, 12).sum(axis=1).astype(np.float32))
        np.testing.assert_array_equal(found["counts"], np.full(batch, 12, np.int32))
        assert found["counts"].dtype == np.int32


def test_a_plugin_beside_the_plan_is_loaded_first(tmp_path: Path) -> None:
    library = tmp_path / "plugin.so"
    library.write_bytes(b"")
    runtime = Runtime(Context())
    open_content(runtime, b"plan", library, errors(), CPU)
    assert runtime.loaded == [str(library)]
    with pytest.raises(EngineError, match=r"cannot load .*plugin\.so: the reason"):
        open_content(Runtime(Context(), loads=False), b"plan", library, errors(), CPU)


def test_what_cannot_be_opened_or_run_is_told_with_the_reason(tmp_path: Path) -> None:
    none = tmp_path / "none.so"
    with pytest.raises(EngineError, match="cannot read the engine that it built: the reason"):
        open_content(Runtime(Context(), engine=False), b"plan", none, errors(), CPU)
    with pytest.raises(EngineError, match="has no room to run the engine: the reason"):
        open_content(Runtime(None), b"plan", none, errors(), CPU)
    failing = open_content(Runtime(Context(runs=False)), b"plan", none, errors(), CPU)
    with pytest.raises(EngineError, match="does not run the engine: the reason"):
        failing({"images": np.zeros((1, 2, 2, 3), np.uint8)})
    small = open_content(Runtime(Context()), b"plan", none, errors(), CPU)
    with pytest.raises(EngineError, match="does not run the engine: the reason"):
        small({"images": np.zeros((5, 2, 2, 3), np.uint8)})


def test_an_engine_for_another_gpu_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.plan").write_bytes(b"plan")
    trt = RecordingTensorRt()
    runtime = SimpleNamespace(get_engine_validity=lambda content: (Validity.INVALID, 7))
    monkeypatch.setattr(trt, "Runtime", lambda logger: runtime, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert open_plan(trt, tmp_path / "model.plan", tmp_path / "none.so") is None  # type: ignore[arg-type]
    runtime.get_engine_validity = lambda content: (Validity.VALID, 0)
    monkeypatch.setattr(tensorrt_run, "open_content", lambda runtime, content, *_: (runtime, content))
    assert open_plan(trt, tmp_path / "model.plan", tmp_path / "none.so") == (runtime, b"plan")  # type: ignore[arg-type]


def test_a_gpu_is_named_by_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (12, 0))
    assert gpu_capability() == "sm_120"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert gpu_capability() is None

"""The part of NVIDIA's package that the server uses, over a CUDA in memory: an engine is a numpy function.

A plan is JSON: what TensorRT would have compiled into it. What NVIDIA's package answers with None or False and a line
to the logger, this one does too. Letters: B images, N rows of the outputs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.engines import BuiltEngine, EngineRecord, Runtime, engine_folder, write_record
from calibox_core.graph_contract import graph_contract
from calibox_core.manifest import Manifest
from calibox_server.engine import EngineInput, EngineOutput
from tests.support.memory_driver import MemoryDriver

VERSION = "11.4.0.2"
SCRATCH = 64  # bytes
CANDIDATES = 7  # rows of what the server does not read

Arrays = Mapping[str, NDArray[Any]]
Network = Callable[[Arrays], Arrays]

DataType = Enum("DataType", ["FLOAT", "HALF", "INT32", "UINT8"])
TensorIOMode = Enum("TensorIOMode", ["INPUT", "OUTPUT"])
TensorLocation = Enum("TensorLocation", ["DEVICE", "HOST"])
Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])

_DTYPES = {"UINT8": np.uint8, "INT32": np.int32, "FLOAT": np.float32, "HALF": np.float16}
_NAMES = {"tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float)": "FLOAT"}


def toy_network(rows: int) -> Network:
    """Answers that tell every input of an image apart, and depend on no other image."""

    def run(feeds: Arrays) -> Arrays:
        total_B = feeds["images"].astype(np.int64).sum(axis=(1, 2, 3))
        row_BN = np.arange(rows)[None] + np.zeros((len(total_B), 1))
        settings = [*feeds["fusion"].T, feeds["score_threshold"], feeds["iou_threshold"], total_B % 9973]
        first, *others = (np.asarray(value, np.float32)[:, None] + row_BN for value in settings)
        return {
            "num_detections": (total_B % (rows + 1)).astype(np.int32),
            "boxes": np.stack([first, *others[:3]], axis=2).astype(np.float32),
            "labels": (feeds["refine_steps"][:, None] + row_BN).astype(np.int32),
            "classification_scores": others[1].astype(np.float32),
            "localization_scores": others[3].astype(np.float32),
            "scores": others[4].astype(np.float32),
        }

    return run


def toy_answer(batch: EngineInput, rows: int) -> EngineOutput:
    """What a batch should be answered with."""
    feeds = {name: getattr(batch, name) for name in EngineInput.__dataclass_fields__}
    found = toy_network(rows)(feeds)
    return EngineOutput(*(found[name] for name in EngineOutput._fields))


def write_engine(bundle: Path, manifest: Manifest, *, runtime: Runtime = "tensorrt", **changes: Any) -> BuiltEngine:
    """A built engine as `calibox build` would leave it.

    Args:
        bundle: its folder.
        manifest: says names, types and shapes.
        runtime: of the engine.
        changes: of the plan (``profiles``, ``tensors``, ``host``, ``plugin``: "beside" or "inside"), and of the record.
    """
    folder = engine_folder(bundle, runtime, "fp16")
    folder.mkdir(parents=True)
    inputs, outputs = graph_contract(manifest)
    plan = {"profiles": [[1, 8]], "tensors": {}, "host": [], "plugin": None}
    plan |= {key: changes.pop(key) for key in plan.keys() & changes.keys()}
    # As in every engine of `calibox build`, which measures with the candidates.
    candidates = {"candidate_labels": ("tensor(int32)", (None, CANDIDATES))}
    sides = {"INPUT": dict(inputs), "OUTPUT": dict(outputs) | candidates}
    for side in sides.values():
        for name in side:
            kind, shape = side[name]
            side[name] = plan["tensors"].get(name, (_NAMES[kind], [-1, *shape[1:]]))
    sides = {mode: {n: facts for n, facts in side.items() if facts is not None} for mode, side in sides.items()}
    (folder / "model.plan").write_text(json.dumps({**plan, "tensors": sides}))
    if plan["plugin"] == "beside":
        (folder / "libcalibox_trt_plugins.so").write_bytes(b"a library")
    record = EngineRecord(
        runtime=runtime,
        precision="fp16",
        runtime_version=VERSION,
        needs=("sm_90",),
        model_sha256="0" * 64,
        files={},
        calibox_version="0.1.0",
        created=datetime(2026, 1, 2, tzinfo=UTC),
    )
    return BuiltEngine(folder, write_record(folder, record.model_copy(update=changes)))


class ILogger:
    """Base of loggers."""

    INTERNAL_ERROR, ERROR = Severity.INTERNAL_ERROR, Severity.ERROR


class FakeTensorRt:
    """The package. ``network`` runs when the device gets there; ``fail_at`` names calls that answer None or False."""

    __version__ = VERSION
    ILogger = ILogger
    ExecutionContextAllocationStrategy = SimpleNamespace(STATIC="static", USER_MANAGED="ours")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")
    CudaGraphStrategy = SimpleNamespace(DISABLED="none", WHOLE_GRAPH_CAPTURE="whole")

    def __init__(self, driver: MemoryDriver, network: Network) -> None:
        self.driver, self.network = driver, network
        self.fail_at: set[str] = set()
        self.engines_alive = 0
        self.configs: list[SimpleNamespace] = []
        self.chosen: dict[int, int] = {}  # profile of the contexts for a batch

    def Runtime(self, logger: Any) -> "FakeRuntime":
        if self.refuses("Runtime", logger):
            raise TypeError("factory function returned nullptr")
        return FakeRuntime(self, logger)

    def refuses(self, call: str, logger: Any) -> bool:
        """Logs a failure where the test wants one."""
        if call in self.fail_at:
            logger.log(Severity.WARNING, "this is only a warning")
            logger.log(Severity.ERROR, f"{call} said no")
        return call in self.fail_at


class FakeRuntime:
    """IRuntime."""

    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.engine_host_code_allowed = False
        self._libraries: list[str] = []

    def get_plugin_registry(self) -> Any:
        return SimpleNamespace(load_library=self._load_library)

    def deserialize_cuda_engine(self, plan: bytes) -> "FakeEngine | None":
        facts = json.loads(plan)
        has_plugin = {None: True, "beside": bool(self._libraries), "inside": self.engine_host_code_allowed}
        if not has_plugin[facts["plugin"]]:
            self._logger.log(Severity.ERROR, "the plugin CalibratedNMS was not found")
            return None
        refused = self._trt.refuses("deserialize_cuda_engine", self._logger)
        return None if refused else FakeEngine(self._trt, self._logger, facts)

    def _load_library(self, path: str) -> object | None:
        if self._trt.refuses("load_library", self._logger):
            return None
        self._libraries.append(path)
        return object()


class FakeEngine:
    """ICudaEngine."""

    device_memory_size_v2 = SCRATCH

    def __init__(self, trt: FakeTensorRt, logger: Any, facts: dict[str, Any]) -> None:
        self.trt, self.logger, self.facts = trt, logger, facts
        self.tensors = {name: (mode, *facts) for mode, side in facts["tensors"].items() for name, facts in side.items()}
        self.num_io_tensors, self.num_optimization_profiles = len(self.tensors), len(facts["profiles"])
        trt.engines_alive += 1

    def __del__(self) -> None:
        self.trt.engines_alive -= 1

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return TensorIOMode[self.tensors[name][0]]

    def get_tensor_dtype(self, name: str) -> Any:
        return DataType[self.tensors[name][1]]

    def get_tensor_shape(self, name: str) -> list[int]:
        shape: list[int] = self.tensors[name][2]
        return shape

    def get_tensor_location(self, name: str) -> Any:
        return TensorLocation.HOST if name in self.facts["host"] else TensorLocation.DEVICE

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[list[int]]:
        least, most = self.facts["profiles"][profile]
        return [[batch, *self.tensors[name][2][1:]] for batch in (least, most, most)]

    def create_runtime_config(self) -> SimpleNamespace:
        config = SimpleNamespace(allocation="static")
        config.set_execution_context_allocation_strategy = lambda how: setattr(config, "allocation", how)
        self.trt.configs.append(config)
        return config

    def create_execution_context(self, how: Any) -> "FakeContext | None":
        assert getattr(how, "allocation", how) == "ours"
        return None if self.trt.refuses("create_execution_context", self.logger) else FakeContext(self)


@dataclass
class FakeContext:
    """IExecutionContext."""

    engine: FakeEngine

    def __post_init__(self) -> None:
        self.profile: int | None = None
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        self.engine.trt.driver.kernel(stream, lambda: None, reads=[], writes=[])
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None, "shapes are told after the profile"
        least, most = self.engine.facts["profiles"][self.profile]
        self.shapes[name] = shape
        self.engine.trt.chosen[shape[0]] = self.profile
        return bool(least <= shape[0] <= most) and not self.engine.trt.refuses("set_input_shape", self.engine.logger)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        self.scratch = (address, size)

    def infer_shapes(self) -> list[str]:
        return [name for name, (mode, *_) in self.engine.tensors.items() if mode == "INPUT" and name not in self.shapes]

    def execute_async_v3(self, stream: int) -> bool:
        trt, driver = self.engine.trt, self.engine.trt.driver
        if trt.refuses("execute_async_v3", self.engine.logger):
            return False
        assert self.addresses.keys() == self.engine.tensors.keys()
        assert self.scratch is not None
        place, size = self.scratch
        assert size >= SCRATCH
        shapes, addresses, tensors = dict(self.shapes), dict(self.addresses), self.engine.tensors
        (batch,) = {shape[0] for shape in shapes.values()}  # all inputs agree
        inputs = [name for name, (mode, *_) in tensors.items() if mode == "INPUT"]
        outputs = [name for name, (mode, *_) in tensors.items() if mode == "OUTPUT"]

        def view(name: str) -> NDArray[Any]:
            _, kind, shape = tensors[name]
            return driver.view(addresses[name], (batch, *shape[1:]), _DTYPES[kind])

        def run() -> None:
            feeds = {name: view(name).copy() for name in inputs}
            driver.view(place, (SCRATCH,), np.uint8)[:] = 0
            found = trt.network(feeds)
            for name in outputs:
                view(name)[:] = found.get(name, -1)

        reads = [addresses[name] for name in inputs]
        driver.kernel(stream, run, reads=reads, writes=[*(addresses[name] for name in outputs), place])
        return True

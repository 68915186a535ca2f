"""What building asks of NVIDIA's package, recorded: it reads the graph for its inputs and nodes, and compiles nothing.

It stands for what TensorRT-RTX has not, plugins and timing caches, and for the difference between 10 and 11.
"""

import json
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx

from calibox_export.calibrated_nms import OPERATOR, PLUGIN_NAMESPACE

Severity = Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])
LayerType = Enum("LayerType", ["PLUGIN_V3", "OTHER"])
BuilderFlag = Enum("BuilderFlag", ["TF32", "STRICT_NANS", "VERSION_COMPATIBLE"])
STRONGLY_TYPED = 3  # some number of a bit


class ILogger:
    """Base of loggers."""

    INTERNAL_ERROR, ERROR = Severity.INTERNAL_ERROR, Severity.ERROR


class RecordingTensorRt:
    """The package.

    Args:
        version: 11 has no flag for strong typing.
        fail_at: calls that fail as NVIDIA's do, with a line to the logger: Builder, build, load_library, or parse.
    """

    ILogger, LayerType, BuilderFlag = ILogger, LayerType, BuilderFlag
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")

    def __init__(self, version: str = "10.15.1", *, fail_at: str = "") -> None:
        self.__version__ = version
        self.fail_at = fail_at
        flags = {} if version.startswith("11") else {"STRONGLY_TYPED": STRONGLY_TYPED}
        self.NetworkDefinitionCreationFlag = SimpleNamespace(**flags)
        self.libraries: list[str] = []
        self.network_flags: int | None = None
        self.config = Config()
        self.profile: dict[str, tuple[Sequence[int], ...]] = {}

    def Builder(self, logger: Any) -> Any:
        if self.fail_at == "Builder":
            logger.log(Severity.WARNING, "this is only a warning")
            logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(
            create_network=self._create_network,
            create_builder_config=lambda: self.config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=self._set_shape),
            get_plugin_registry=lambda: SimpleNamespace(load_library=self._loader(logger)),
            build_serialized_network=self._building(logger),
        )

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        def parse(content: bytes) -> bool:
            graph = onnx.load_from_string(content).graph
            network.inputs = [
                SimpleNamespace(name=v.name, shape=[d.dim_value or -1 for d in v.type.tensor_type.shape.dim])
                for v in graph.input
            ]
            network.layers = [SimpleNamespace(type=self._layer(node)) for node in graph.node]
            network.num_inputs, network.num_layers = len(network.inputs), len(network.layers)
            return self.fail_at != "parse"

        error = SimpleNamespace(
            desc=lambda: (
                "Invalid Node - n7\nstatic assertion: no such thing\n[checkMacros.cpp::catchCudaError::250] no"
            ),
            node_name=lambda: "n7",
            node_operator=lambda: "NonZero",
            local_function_stack=lambda: ["Outer", "Inner"],
        )
        return SimpleNamespace(parse=parse, num_errors=int(self.fail_at == "parse"), get_error=lambda index: error)

    def _layer(self, node: onnx.NodeProto) -> LayerType:
        spaces = [a.s.decode() for a in node.attribute if a.name == "plugin_namespace"]
        replaced = self.libraries and node.op_type == OPERATOR and spaces == [PLUGIN_NAMESPACE]
        return LayerType.PLUGIN_V3 if replaced else LayerType.OTHER

    def _create_network(self, flags: int) -> Any:
        self.network_flags = flags
        network = SimpleNamespace()
        network.get_input = lambda index: network.inputs[index]
        network.get_layer = lambda index: network.layers[index]
        return network

    def _set_shape(self, name: str, *shapes: Sequence[int]) -> None:
        self.profile[name] = shapes

    def _loader(self, logger: Any) -> Callable[[str], object | None]:
        def load_library(path: str) -> object | None:
            if self.fail_at == "load_library":
                logger.log(Severity.ERROR, "undefined symbol: calibox")
                return None
            self.libraries.append(Path(path).name)
            return object()

        return load_library

    def _building(self, logger: Any) -> Callable[[Any, Any], bytes | None]:
        def build(network: Any, config: Config) -> bytes | None:
            if self.fail_at == "build":
                logger.log(Severity.ERROR, "no tactic is left")
                return None
            assert config is self.config
            plan = {"inside": config.plugins_to_serialize, "layers": network.num_layers}
            config.timings += b" and this build"
            return json.dumps(plan).encode()

        return build


class Config:
    """IBuilderConfig."""

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}
        self.plugins_to_serialize: list[str] = []
        self.profiles = 0
        self.limits: dict[str, int] = {}
        self.timings = b""
        self.has_cache = False

    def set_memory_pool_limit(self, pool: str, size: int) -> None:
        self.limits[pool] = size

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: Any) -> int:
        self.profiles += 1
        return self.profiles - 1

    def create_timing_cache(self, content: bytes) -> bytes:
        return content

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        """Refuses what another version wrote."""
        assert not ignore_mismatch
        self.timings, self.has_cache = cache, not cache.startswith(b"other")
        return self.has_cache

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: self.timings) if self.has_cache else None

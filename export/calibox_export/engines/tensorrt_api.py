"""The part of NVIDIA's Python packages `tensorrt` and `tensorrt_rtx` that building uses; both have the same API.

TensorRT 10 and 11 differ in what is left out here: 11 has strongly typed networks only, and no flag that asks for them.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from calibox_core.engines import Runtime
from calibox_core.tensorrt_package import ErrorTexts, import_package, reasons

__all__ = ["Builder", "Config", "ErrorTexts", "Network", "Parser", "TensorRt", "import_tensorrt", "reasons"]


class Tensor(Protocol):
    """ITensor."""

    name: str
    shape: Sequence[int]  # -1 where it is free


class Network(Protocol):
    """INetworkDefinition."""

    num_inputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor:
        """By number."""

    def get_layer(self, index: int) -> Any:
        """ILayer by number."""


class ParserError(Protocol):
    """IParserError: where the parser stopped."""

    def desc(self) -> str:
        """Lines of reasons."""

    def node_name(self) -> str:
        """May be empty."""

    def node_operator(self) -> str:
        """Its op_type."""

    def local_function_stack(self) -> Sequence[str]:
        """Functions around the node, outermost first."""


class Parser(Protocol):
    """OnnxParser. It owns the weights of what it parsed: it is kept until the engine is built."""

    num_errors: int

    def parse(self, model: bytes) -> bool:
        """Whether the whole graph could be read."""

    def get_error(self, index: int) -> ParserError:
        """By number."""


class Profile(Protocol):
    """IOptimizationProfile."""

    def set_shape(self, name: str, least: Sequence[int], best: Sequence[int], most: Sequence[int]) -> None:
        """Of an input."""


class Config(Protocol):
    """IBuilderConfig."""

    plugins_to_serialize: Sequence[str]
    num_compute_capabilities: int  # of TensorRT-RTX

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        """In bytes."""

    def set_flag(self, flag: Any) -> None:
        """BuilderFlag."""

    def clear_flag(self, flag: Any) -> None:
        """BuilderFlag."""

    def add_optimization_profile(self, profile: Profile) -> int:
        """Its number."""

    def set_compute_capability(self, capability: Any, index: int) -> bool:
        """Of TensorRT-RTX."""

    def create_timing_cache(self, content: bytes) -> Any:
        """ITimingCache."""

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        """False for one of another version or device."""

    def get_timing_cache(self) -> Any:
        """ITimingCache or None."""


class Builder(Protocol):
    """IBuilder."""

    def create_network(self, flags: int) -> Network:
        """Empty."""

    def create_builder_config(self) -> Config:
        """With defaults."""

    def create_optimization_profile(self) -> Profile:
        """Empty."""

    def get_plugin_registry(self) -> Any:
        """IPluginRegistry."""

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        """IHostMemory; None where it cannot, and the logger has been told why."""


class TensorRt(Protocol):
    """The package."""

    __version__: str
    ILogger: Any
    BuilderFlag: Any
    ComputeCapability: Any  # of TensorRT-RTX
    LayerType: Any
    MemoryPoolType: Any
    NetworkDefinitionCreationFlag: Any

    def Builder(self, logger: Any) -> Builder:
        """Raises where it cannot start."""

    def OnnxParser(self, network: Network, logger: Any) -> Parser:
        """For one network."""

    def Runtime(self, logger: Any) -> Any:
        """IRuntime."""


def import_tensorrt(runtime: Runtime) -> TensorRt:
    """The package of a runtime.

    Raises:
        EngineError: it is not installed, or the libraries that it loads are not.
    """
    return cast("TensorRt", import_package(runtime))

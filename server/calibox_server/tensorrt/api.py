"""The part of NVIDIA's Python packages `tensorrt` and `tensorrt_rtx` that the server uses; both have the same API."""

from collections.abc import Sequence
from typing import Any, Protocol, cast

from calibox_core.engines import Runtime
from calibox_core.tensorrt_package import import_package


class Context(Protocol):
    """IExecutionContext: an engine made ready for one shape."""

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        """Chooses the range of shapes."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """Once per input."""

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Once per input and output."""

    def set_device_memory(self, address: int, size: int) -> None:
        """Scratch memory, used by one run at a time."""

    def infer_shapes(self) -> list[str]:
        """Names of what is not told sufficiently."""

    def execute_async_v3(self, stream: int) -> bool:
        """Queues a run."""


class CudaEngine(Protocol):
    """ICudaEngine: a network's kernels and weights on the device."""

    num_io_tensors: int
    num_optimization_profiles: int
    device_memory_size_v2: int  # bytes of scratch memory that any profile needs

    def get_tensor_name(self, index: int) -> str:
        """Of an input or output."""

    def get_tensor_mode(self, name: str) -> Any:
        """TensorIOMode."""

    def get_tensor_dtype(self, name: str) -> Any:
        """DataType."""

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Sizes, -1 where they are free."""

    def get_tensor_location(self, name: str) -> Any:
        """TensorLocation."""

    def get_tensor_profile_shape(self, name: str, profile: int) -> Sequence[Sequence[int]]:
        """Least, best and largest shape of an input."""

    def create_runtime_config(self) -> Any:
        """IRuntimeConfig, which only TensorRT-RTX asks for here."""

    def create_execution_context(self, how: Any) -> Context | None:
        """Args: an ExecutionContextAllocationStrategy or an IRuntimeConfig."""


class RuntimeObject(Protocol):
    """IRuntime: reads engines."""

    engine_host_code_allowed: bool

    def get_plugin_registry(self) -> Any:
        """Its own IPluginRegistry."""

    def deserialize_cuda_engine(self, plan: bytes) -> CudaEngine | None:
        """None where it cannot; the logger has been told why."""


class TensorRt(Protocol):
    """The package."""

    __version__: str
    ILogger: Any
    ExecutionContextAllocationStrategy: Any
    DynamicShapesKernelSpecializationStrategy: Any  # this and the next of TensorRT-RTX alone
    CudaGraphStrategy: Any

    def Runtime(self, logger: Any) -> RuntimeObject:
        """Raises where it cannot start."""


def import_tensorrt(runtime: Runtime) -> TensorRt:
    """The package of a runtime.

    Raises:
        EngineError: it, or a library that it loads, is not installed.
    """
    return cast("TensorRt", import_package(runtime))

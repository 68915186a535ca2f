"""A TensorRT engine in memory, and contexts that run it. Letters: B images of a batch."""

from collections.abc import Mapping
from typing import Any

from calibox_core.engines import BuiltEngine
from calibox_core.manifest import Manifest
from calibox_core.tensorrt_package import PLAN_FILE, ErrorTexts
from calibox_server.cuda.driver import Address, Device, Stream
from calibox_server.tensorrt.api import Context, TensorRt
from calibox_server.tensorrt.loading import load
from calibox_server.tensorrt.tensors import read_tensors


class Plan:
    """A deserialised engine. Used inside `CudaDriver.current`.

    Args:
        trt: the package of its runtime.
        built: an engine of `read_engine`.
        manifest: of its bundle.
        device: that it is to run on.

    Raises:
        EngineError: as `load` and `read_tensors` say.
    """

    def __init__(self, trt: TensorRt, built: BuiltEngine, manifest: Manifest, device: Device) -> None:
        self.name = f"{built.record.runtime} {trt.__version__} {built.record.precision} ({device.name})"
        self.captures_itself = built.record.runtime == "tensorrt-rtx"  # CUDA graphs, in its own way
        self._trt = trt
        self._errors = ErrorTexts(trt)
        self._runtime, self._engine = load(trt, built, device, self._errors)
        self.weights_size = (built.folder / PLAN_FILE).stat().st_size  # bytes; nearly all of a plan is weights
        self.tensors = read_tensors(self._engine, manifest, built.folder)
        self._profiles = [self._batches(index) for index in range(self._engine.num_optimization_profiles)]
        self.max_batch = max(most for _, most in self._profiles)
        self.scratch_size = max(1, self._engine.device_memory_size_v2)  # bytes; CUDA allocates no block of 0

    def takes(self, batch: int) -> bool:
        """Whether the engine was built for batches of this size."""
        return any(least <= batch <= most for least, most in self._profiles)

    def context(self, batch: int, addresses: Mapping[str, Address], scratch: Address, stream: Stream) -> Context:
        """The engine ready for batches of one size on fixed memory.

        NVIDIA advises a context for each CUDA graph, as one that changes its shapes spoils what was captured from it.
        Contexts of the same ``scratch`` run one after another.

        Args:
            batch: B; the engine takes it.
            addresses: of every input and output, with room for B images.
            scratch: `scratch_size` bytes.
            stream: where it may queue what the choice of a profile needs.

        Raises:
            EngineError: TensorRT refuses.
        """
        made = self._engine.create_execution_context(self._allocation())
        if made is None:
            raise self._errors.refusal(f"{self.name} makes no execution context")
        fitting = [(most, index) for index, (least, most) in enumerate(self._profiles) if least <= batch <= most]
        told = [made.set_optimization_profile_async(min(fitting)[1], stream)]
        made.set_device_memory(scratch, self.scratch_size)
        told += [made.set_input_shape(name, tensor.shape(batch)) for name, tensor in self.tensors.inputs.items()]
        told += [made.set_tensor_address(name, address) for name, address in addresses.items()]
        if not all(told) or made.infer_shapes():
            raise self._errors.refusal(f"{self.name} refuses batches of {batch}")
        return made

    def enqueue(self, context: Context, stream: Stream) -> None:
        """Queues a run.

        Raises:
            EngineError: TensorRT refuses.
        """
        if not context.execute_async_v3(stream):
            raise self._errors.refusal(f"{self.name} does not run")

    def close(self) -> None:
        """Frees what the engine has on the device; every context is gone already."""
        del self._engine
        del self._runtime

    def _batches(self, profile: int) -> tuple[int, int]:
        """Least and most images of a profile."""
        least, _, most = self._engine.get_tensor_profile_shape("images", profile)
        return int(least[0]), int(most[0])

    def _allocation(self) -> Any:
        """Says that scratch memory is ours, and to TensorRT-RTX that the warm-up is the time for compiling."""
        ours = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self.captures_itself:
            return ours
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(ours)
        # By default kernels for a shape are compiled in the background, while stopgaps serve the first requests.
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

"""CUDA through NVIDIA's cuda-bindings (the runtime API)."""

import ctypes
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from calibox_core.engines import EngineError
from calibox_server.cuda.driver import (
    Address,
    Array,
    CapturedGraph,
    Device,
    Event,
    Stream,
    finding_the_device,
    import_modules,
)


class CudaBindingsDriver:
    """The first visible device.

    Raises:
        DriverMissingError: cuda-bindings cannot be imported.
        EngineError: there is no device, or no NVIDIA driver that is new enough.
    """

    def __init__(self) -> None:
        bindings, self._cuda = import_modules("cuda-bindings", "cuda.bindings", "cuda.bindings.runtime")
        self.name = f"cuda-bindings {bindings.__version__}"
        with finding_the_device():
            self._call(self._cuda.cudaSetDevice, 0)
            facts = self._call(self._cuda.cudaGetDeviceProperties, 0)
        self.device = Device(facts.name.decode(), f"sm_{facts.major}{facts.minor}", facts.totalGlobalMem)

    @contextmanager
    def current(self) -> Iterator[None]:
        """The runtime API keeps a current device per thread, and its primary context with it."""
        self._call(self._cuda.cudaSetDevice, 0)
        yield

    def allocate(self, size: int) -> Address:
        """By cudaMalloc."""
        return Address(int(self._call(self._cuda.cudaMalloc, size)))

    def free(self, address: Address) -> None:
        """By cudaFree."""
        self._call(self._cuda.cudaFree, address)

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """By cudaHostAlloc."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        place = int(self._call(self._cuda.cudaHostAlloc, size, self._cuda.cudaHostAllocDefault))
        block = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(place))
        return block.view(dtype).reshape(shape)

    def free_pinned(self, array: Array) -> None:
        """By cudaFreeHost."""
        self._call(self._cuda.cudaFreeHost, array.ctypes.data)

    def create_stream(self) -> Stream:
        """By cudaStreamCreateWithFlags."""
        return Stream(int(self._call(self._cuda.cudaStreamCreateWithFlags, self._cuda.cudaStreamNonBlocking)))

    def destroy_stream(self, stream: Stream) -> None:
        """By cudaStreamDestroy."""
        self._call(self._cuda.cudaStreamDestroy, stream)

    def to_device(self, address: Address, array: Array, stream: Stream) -> None:
        """By cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync, address, array.ctypes.data, array.nbytes, kind, stream)

    def to_host(self, array: Array, address: Address, stream: Stream) -> None:
        """By cudaMemcpyAsync."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cuda.cudaMemcpyAsync, array.ctypes.data, address, array.nbytes, kind, stream)

    def create_event(self) -> Event:
        """By cudaEventCreateWithFlags."""
        flags = self._cuda.cudaEventBlockingSync | self._cuda.cudaEventDisableTiming
        return Event(int(self._call(self._cuda.cudaEventCreateWithFlags, flags)))

    def destroy_event(self, event: Event) -> None:
        """By cudaEventDestroy."""
        self._call(self._cuda.cudaEventDestroy, event)

    def record(self, event: Event, stream: Stream) -> None:
        """By cudaEventRecord."""
        self._call(self._cuda.cudaEventRecord, event, stream)

    def synchronize(self, event: Event) -> None:
        """By cudaEventSynchronize."""
        self._call(self._cuda.cudaEventSynchronize, event)

    def capture(self, stream: Stream, work: Callable[[], None]) -> CapturedGraph:
        """Captured by thread, so that what other threads allocate meanwhile is no error."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call(self._cuda.cudaStreamBeginCapture, stream, mode)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(stream)  # or the stream stays unusable; its own error adds nothing
            self._cuda.cudaGetLastError()  # forgets it
            raise
        template = self._call(self._cuda.cudaStreamEndCapture, stream)
        try:
            return CapturedGraph(int(self._call(self._cuda.cudaGraphInstantiate, template, 0)))
        finally:
            self._call(self._cuda.cudaGraphDestroy, template)

    def launch(self, graph: CapturedGraph, stream: Stream) -> None:
        """By cudaGraphLaunch."""
        self._call(self._cuda.cudaGraphLaunch, graph, stream)

    def destroy_graph(self, graph: CapturedGraph) -> None:
        """By cudaGraphExecDestroy."""
        self._call(self._cuda.cudaGraphExecDestroy, graph)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The value that a function returns beside its error code, if it has one."""
        code, *values = function(*arguments)
        if code.value:
            _, name = self._cuda.cudaGetErrorName(code)
            _, text = self._cuda.cudaGetErrorString(code)
            self._cuda.cudaGetLastError()  # else TensorRT, which asks for the last error, reports this one as its own
            raise EngineError(f"{function.__name__} failed: {name.decode()}, {text.decode()}")
        return values[0] if values else None

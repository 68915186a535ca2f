"""Two small stand-ins for the Python packages that reach CUDA, over ordinary memory: what the drivers call, no more.

They run everything at once. What they are for is the drivers' own work: arguments in order, error codes, handles, and
the context that pycuda wants on each thread.
"""

import ctypes
import itertools
import threading
from collections.abc import Callable
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

TOO_MUCH = 2**30  # bytes; more is refused

CudaError = Enum("CudaError", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2, "cudaErrorInvalidValue": 1})
CopyKind = Enum("CopyKind", ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"])
CaptureMode = Enum("CaptureMode", ["cudaStreamCaptureModeGlobal", "cudaStreamCaptureModeThreadLocal"])


class Handle:
    """What cuda-bindings returns for streams, events and graphs."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __int__(self) -> int:
        return self.number


class FakeRuntimeApi(ModuleType):
    """`cuda.bindings.runtime`."""

    cudaMemcpyKind, cudaStreamCaptureMode = CopyKind, CaptureMode
    cudaHostAllocDefault, cudaStreamNonBlocking, cudaEventBlockingSync, cudaEventDisableTiming = 0, 1, 1, 2

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.memory: dict[int, Any] = {}
        self.handles: dict[int, Any] = {}  # a stream's list while it is captured; a graph's work
        self.last_error = CudaError.cudaSuccess
        self._numbers = itertools.count(1)

    def cudaSetDevice(self, ordinal: int) -> tuple[Any]:
        return (self._code(ordinal == 0),)

    def cudaGetDeviceProperties(self, ordinal: int) -> tuple[Any, Any]:
        return CudaError.cudaSuccess, SimpleNamespace(name=b"Toy 2", major=8, minor=9, totalGlobalMem=1000)

    def cudaGetErrorName(self, code: Any) -> tuple[Any, bytes]:
        return CudaError.cudaSuccess, code.name.encode()

    def cudaGetErrorString(self, code: Any) -> tuple[Any, bytes]:
        return CudaError.cudaSuccess, b"words about it"

    def cudaGetLastError(self) -> tuple[Any]:
        found, self.last_error = self.last_error, CudaError.cudaSuccess
        return (found,)

    def cudaMalloc(self, size: int) -> tuple[Any, int | None]:
        if size > TOO_MUCH:
            return self._code(False, CudaError.cudaErrorMemoryAllocation), None
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return CudaError.cudaSuccess, ctypes.addressof(block)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int | None]:
        return self.cudaMalloc(size)

    def cudaFree(self, address: int) -> tuple[Any]:
        return (self._code(self.memory.pop(address, None) is not None),)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, Handle]:
        assert flags == self.cudaStreamNonBlocking
        return self._made(None)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, Handle]:
        assert flags == self.cudaEventBlockingSync | self.cudaEventDisableTiming
        return self._made(None)

    def cudaMemcpyAsync(self, goal: int, source: int, size: int, kind: Any, stream: int) -> tuple[Any]:
        device = goal if kind is CopyKind.cudaMemcpyHostToDevice else source
        if device not in self.memory:
            return (self._code(False),)
        self._queue(stream, lambda: ctypes.memmove(goal, source, size))
        return (CudaError.cudaSuccess,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any]:
        return (self._code(event in self.handles and stream in self.handles),)

    def cudaEventSynchronize(self, event: int) -> tuple[Any]:
        return (self._code(event in self.handles),)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any]:
        assert mode is CaptureMode.cudaStreamCaptureModeThreadLocal
        fits = self.handles[stream] is None
        self.handles[stream] = []
        return (self._code(fits),)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, Handle]:
        work, self.handles[stream] = self.handles[stream], None
        return self._made(work)

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[Any, Handle]:
        return self._made(self.handles[graph.number])

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Any]:
        for work in self.handles[graph]:
            self._queue(stream, work)
        return (CudaError.cudaSuccess,)

    def cudaStreamDestroy(self, handle: Any) -> tuple[Any]:
        return (self._code(self.handles.pop(int(handle), self) is not self),)

    cudaEventDestroy = cudaGraphDestroy = cudaGraphExecDestroy = cudaStreamDestroy

    def _queue(self, stream: int, work: Callable[[], Any]) -> None:
        captured = self.handles[stream]
        if captured is None:
            work()
        else:
            captured.append(work)

    def _made(self, thing: Any) -> tuple[Any, Handle]:
        handle = Handle(next(self._numbers))
        self.handles[handle.number] = thing
        return CudaError.cudaSuccess, handle

    def _code(self, fine: bool, otherwise: Any = CudaError.cudaErrorInvalidValue) -> Any:
        self.last_error = CudaError.cudaSuccess if fine else otherwise
        return self.last_error


class PycudaError(Exception):
    """`pycuda.driver.Error`."""


class FakePycuda(ModuleType):
    """`pycuda.driver`, whose every call needs the primary context on the top of this thread's stack."""

    Error = PycudaError
    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)

    def __init__(self) -> None:
        super().__init__("pycuda.driver")
        self.alive = 0
        stacks = threading.local()
        package = self

        class Context:
            def push(self) -> None:
                stacks.depth = getattr(stacks, "depth", 0) + 1

            @staticmethod
            def pop() -> None:
                stacks.depth -= 1

        class Device:
            def __init__(self, ordinal: int) -> None:
                assert ordinal == 0

            def name(self) -> str:
                return "Toy 2"

            def compute_capability(self) -> tuple[int, int]:
                return 8, 9

            def total_memory(self) -> int:
                return 1000

            def retain_primary_context(self) -> Context:
                return Context()

        class Thing:
            """Lives until it is let go, memory until it is freed."""

            def __init__(self, flags: int = 0) -> None:
                package.check(getattr(stacks, "depth", 0) > 0, "invalid device context")
                package.alive += 1
                self.flags, self.handle = flags, id(self)

            def __del__(self) -> None:
                package.alive -= 1

            def record(self, stream: Any) -> None:
                assert isinstance(stream, Thing)

            def synchronize(self) -> None:
                package.check(getattr(stacks, "depth", 0) > 0, "invalid device context")

        class Memory(Thing):
            def __init__(self, size: int) -> None:
                super().__init__()
                package.check(size <= TOO_MUCH, "cuMemAlloc failed: out of memory")
                self.block: Any = ctypes.create_string_buffer(size)

            def __int__(self) -> int:
                return ctypes.addressof(self.block)

            def free(self) -> None:
                package.check(self.block is not None, "cuMemFree failed: invalid argument")
                self.block = None
                package.alive -= 1

            def __del__(self) -> None:
                """Counted when it was freed."""

        self.Context, self.Device, self.Stream, self.Event, self.mem_alloc = Context, Device, Thing, Thing, Memory

    def init(self) -> None:
        """Nothing to do."""

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        memory = self.mem_alloc(int(np.prod(shape)) * np.dtype(dtype).itemsize)

        class Pinned(np.ndarray):  # type: ignore[type-arg]
            base = memory

        return np.frombuffer(memory.block, dtype)[: int(np.prod(shape))].reshape(shape).view(Pinned)

    def memcpy_htod_async(self, goal: int, source: Any, stream: Any) -> None:
        ctypes.memmove(goal, source.ctypes.data, source.nbytes)

    def memcpy_dtoh_async(self, goal: Any, source: int, stream: Any) -> None:
        ctypes.memmove(goal.ctypes.data, source, goal.nbytes)

    @staticmethod
    def check(fine: bool, text: str) -> None:
        """Raises the package's error."""
        if not fine:
            raise PycudaError(text)

"""CUDA through pycuda. Written against its documentation and sources; it has never been run.

pycuda keeps a stack of contexts per thread. What TensorRT allocates through the runtime API lies in the primary
context, so that is the one that is pushed, and popped again before the thread goes on: pycuda ends the process when a
thread that still has one ends. Things are freed with the context pushed; pycuda gives up on them elsewhere.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


class PycudaDriver:
    """The first visible device.

    Raises:
        DriverMissingError: pycuda cannot be imported.
        EngineError: there is no device.
    """

    def __init__(self) -> None:
        package, self._cuda = import_modules("pycuda", "pycuda", "pycuda.driver")
        self.name = f"pycuda {package.VERSION_TEXT}"
        with finding_the_device(), self._told():
            self._cuda.init()
            device = self._cuda.Device(0)
            major, minor = device.compute_capability()
            self.device = Device(device.name(), f"sm_{major}{minor}", device.total_memory())
            self._context = device.retain_primary_context()
        self._held: dict[int, Any] = {}  # pycuda's objects by their handles; they end when they are let go

    @contextmanager
    def current(self) -> Iterator[None]:
        """Pushes the primary context."""
        with self._told():
            self._context.push()
        try:
            yield
        finally:
            with self._told():
                self._cuda.Context.pop()

    def allocate(self, size: int) -> Address:
        """mem_alloc."""
        with self._told():
            memory = self._cuda.mem_alloc(size)
        return Address(self._hold(int(memory), memory))

    def free(self, address: Address) -> None:
        """DeviceAllocation.free."""
        with self._told():
            self._held.pop(address).free()

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """pagelocked_empty."""
        with self._told():
            array: Array = self._cuda.pagelocked_empty(shape, dtype)
        return array

    def free_pinned(self, array: Array) -> None:
        """PagelockedHostAllocation.free."""
        allocation: Any = array.base
        with self._told():
            allocation.free()

    def create_stream(self) -> Stream:
        """Flags 1 are CU_STREAM_NON_BLOCKING, which pycuda has no name for."""
        with self._told():
            stream = self._cuda.Stream(1)
        return Stream(self._hold(stream.handle, stream))

    def destroy_stream(self, stream: Stream) -> None:
        """Lets it go."""
        with self._told():
            del self._held[stream]

    def to_device(self, address: Address, array: Array, stream: Stream) -> None:
        """memcpy_htod_async."""
        with self._told():
            self._cuda.memcpy_htod_async(address, array, self._held[stream])

    def to_host(self, array: Array, address: Address, stream: Stream) -> None:
        """memcpy_dtoh_async."""
        with self._told():
            self._cuda.memcpy_dtoh_async(array, address, self._held[stream])

    def create_event(self) -> Event:
        """An event has no handle that could be asked for."""
        flags = self._cuda.event_flags
        with self._told():
            event = self._cuda.Event(flags.BLOCKING_SYNC | flags.DISABLE_TIMING)
        return Event(self._hold(id(event), event))

    def destroy_event(self, event: Event) -> None:
        """Lets it go."""
        with self._told():
            del self._held[event]

    def record(self, event: Event, stream: Stream) -> None:
        """Event.record."""
        with self._told():
            self._held[event].record(self._held[stream])

    def synchronize(self, event: Event) -> None:
        """Event.synchronize."""
        with self._told():
            self._held[event].synchronize()

    def capture(self, stream: Stream, work: Callable[[], None]) -> CapturedGraph:  # noqa: ARG002
        """Always an error: as of 2026.1 pycuda wraps no CUDA graphs."""
        raise self._no_graphs()

    def launch(self, graph: CapturedGraph, stream: Stream) -> None:  # noqa: ARG002
        """Always an error, as `capture` is."""
        raise self._no_graphs()

    def destroy_graph(self, graph: CapturedGraph) -> None:  # noqa: ARG002
        """Always an error, as `capture` is."""
        raise self._no_graphs()

    def _no_graphs(self) -> EngineError:
        return EngineError(f"{self.name} has no CUDA graphs; cuda-bindings has (--cuda-driver cuda-bindings)")

    def _hold(self, handle: int, thing: Any) -> int:
        self._held[handle] = thing
        return handle

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of pycuda, which name the call and the error, as ours."""
        try:
            yield
        except self._cuda.Error as error:
            raise EngineError(str(error)) from error

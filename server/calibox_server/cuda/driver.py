"""What the TensorRT runner asks of CUDA: memory, copies, a stream, an event, a graph.

Everything but `current` is called inside `current`, which makes the device's primary context the one of the calling
thread. Handles are plain integers, as CUDA's own are, so that TensorRT gets what it expects; each goes back once, to
the function that ends it, after the work that uses it is done. Whatever CUDA reports becomes an EngineError with the
name of the error.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NewType, Protocol

from numpy.typing import DTypeLike, NDArray

from calibox_core.engines import EngineError

Address = NewType("Address", int)  # of device memory
Stream = NewType("Stream", int)  # a queue of work on the device
Event = NewType("Event", int)  # a mark in a stream
CapturedGraph = NewType("CapturedGraph", int)  # work that is launched by one call

Array = NDArray[Any]


class DriverMissingError(EngineError):
    """The Python package of a driver cannot be imported."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU."""

    name: str  # "NVIDIA L4"
    capability: str  # "sm_89", as records of engines name it
    memory: int  # bytes


class CudaDriver(Protocol):
    """One device. Safe to use from many threads; a stream belongs to one thread at a time."""

    @property
    def name(self) -> str:
        """Package and version."""

    @property
    def device(self) -> Device:
        """The device that everything here is on: the first that CUDA shows."""

    def current(self) -> AbstractContextManager[None]:
        """The block in which this thread may call the rest."""

    def allocate(self, size: int) -> Address:
        """``size`` bytes of device memory, at least 1, with whatever they hold."""

    def free(self, address: Address) -> None:
        """Gives device memory back."""

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """A C-contiguous array in page-locked host memory: copies from and to it go on while the program does."""

    def free_pinned(self, array: Array) -> None:
        """Gives an array of `pinned` back; neither it nor a view of it is touched any more."""

    def create_stream(self) -> Stream:
        """A stream that does not wait for CUDA's default stream."""

    def destroy_stream(self, stream: Stream) -> None:
        """Ends a stream whose work is done."""

    def to_device(self, address: Address, array: Array, stream: Stream) -> None:
        """Queues a copy. ``array``, pinned and contiguous, stays as it is until the stream got there."""

    def to_host(self, array: Array, address: Address, stream: Stream) -> None:
        """Queues a copy. ``array``, pinned and contiguous, holds the values once the stream got there, not before."""

    def create_event(self) -> Event:
        """An event whose waiting threads sleep."""

    def destroy_event(self, event: Event) -> None:
        """Ends an event that nobody waits for."""

    def record(self, event: Event, stream: Stream) -> None:
        """Marks what was queued in the stream so far; an earlier mark of the event is forgotten."""

    def synchronize(self, event: Event) -> None:
        """Blocks until all that the event marks is done, other Python threads running meanwhile.

        Raises:
            EngineError: some of it failed.
        """

    def capture(self, stream: Stream, work: Callable[[], None]) -> CapturedGraph:
        """What ``work`` queues in the stream, as a graph; none of it runs now.

        Raises:
            EngineError: this driver has no graphs, the work cannot be captured, or what ``work`` itself raised.
        """

    def launch(self, graph: CapturedGraph, stream: Stream) -> None:
        """Queues a run of the graph."""

    def destroy_graph(self, graph: CapturedGraph) -> None:
        """Ends a graph none of whose runs is under way."""


def import_modules(package: str, *modules: str) -> list[Any]:
    """Modules of a driver's package.

    Raises:
        DriverMissingError: one cannot be imported.
    """
    try:
        return [importlib.import_module(name) for name in modules]
    except ImportError as error:
        raise DriverMissingError(
            f"{package} cannot be imported ({error}); install it with: pip install 'calibox[gpu]'"
        ) from error


@contextmanager
def finding_the_device() -> Iterator[None]:
    """Says of a failure in the block what it means: there is no GPU that could be used."""
    try:
        yield
    except EngineError as error:
        raise EngineError(
            f"no GPU can be used here ({error}): serve on a machine with an NVIDIA GPU and a driver for this version "
            "of CUDA (`nvidia-smi` shows both), or with --engine onnxruntime"
        ) from error

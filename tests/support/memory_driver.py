"""A CUDA in memory that is as lazy as it may be, and complains where a GPU would answer wrongly now and then.

Work that was queued in a stream runs when somebody waits for an event behind it, not before. So an answer that is read
too early is poison, and these are errors: a pinned array that is written while a copy of it is queued, memory that two
streams use without waiting for each other, memory that is freed before its work is done or used after, work on another
thread than the one that called `current`, what a capture forbids. `live` says what was never given back.
"""

import itertools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import DTypeLike

from calibox_core.engines import EngineError
from calibox_server.cuda.driver import Address, Array, CapturedGraph, Device, Event, Stream

T = TypeVar("T")

POISON = 0xA5  # in every byte that nobody wrote


class MisuseError(AssertionError):
    """The runner did what a GPU punishes at random."""


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of queued work, with the blocks of memory that it touches."""

    run: Callable[[], None]
    reads: frozenset[int]
    writes: frozenset[int]

    def collides(self, other: "Work") -> bool:
        """Whether the order of the two changes what is in memory."""
        return bool(self.writes & (other.reads | other.writes) or other.writes & self.reads)


@dataclass(slots=True)
class Queue:
    """A stream."""

    waiting: deque[Work] = field(default_factory=deque)
    queued: int = 0  # pieces of work in all its life
    capturing: list[Work] | None = None
    running: threading.Lock = field(default_factory=threading.Lock)


class MemoryDriver:
    """One device whose memory is numpy arrays.

    Args:
        capability: of the device.
        memory: bytes of it; `allocate` fails beyond.
        graphs: whether `capture` works.
    """

    name = "memory"

    def __init__(self, *, capability: str = "sm_90", memory: int = 2**24, graphs: bool = True) -> None:
        self.device = Device("Toy 1", capability, memory)
        self.calls: Counter[str] = Counter()
        self.fail_at: dict[str, int] = {}  # the n-th call from now of a function raises, counted from 0
        self.most_in_flight = 0  # streams with queued work at the same time
        self._graphs_work = graphs
        self._handles = itertools.count(0x1000, 0x1000)
        self._device: dict[int, Array] = {}
        self._pinned: dict[int, Array] = {}  # by where they start
        self._streams: dict[int, Queue] = {}
        self._events: dict[int, tuple[int, int] | None] = {}  # stream, and how much of it
        self._graphs: dict[int, Sequence[Work]] = {}
        self._threads = threading.local()
        self._lock = threading.RLock()

    @property
    def live(self) -> int:
        """Allocations, streams, events and graphs that were not given back."""
        kept = (self._device, self._pinned, self._streams, self._events, self._graphs)
        return sum(len(things) for things in kept)

    @property
    def device_bytes(self) -> int:
        """Of all allocations on the device."""
        return sum(block.nbytes for block in self._device.values())

    @contextmanager
    def current(self) -> Iterator[None]:
        depth = getattr(self._threads, "depth", 0)
        self._threads.depth = depth + 1
        try:
            yield
        finally:
            self._threads.depth = depth

    def allocate(self, size: int) -> Address:
        with self._call("allocate"):
            if size < 1 or sum(block.nbytes for block in self._device.values()) + size > self.device.memory:
                raise EngineError(f"no {size} bytes of device memory are left")
            return Address(self._new(self._device, np.full(size, POISON, np.uint8)))

    def free(self, address: Address) -> None:
        with self._call("free"):
            self._check_idle(address)
            self._take(self._device, address)[:] = POISON

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        with self._call("pinned"):
            block = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, POISON, np.uint8)
            self._pinned[block.ctypes.data] = block
            array: Array = block.view(dtype).reshape(shape)
            return array

    def free_pinned(self, array: Array) -> None:
        with self._call("free_pinned"):
            self._check_idle(array.ctypes.data)
            self._take(self._pinned, array.ctypes.data)[:] = POISON

    def create_stream(self) -> Stream:
        with self._call("create_stream"):
            return Stream(self._new(self._streams, Queue()))

    def destroy_stream(self, stream: Stream) -> None:
        with self._call("destroy_stream"):
            if self._take(self._streams, stream).waiting:
                raise MisuseError("a stream was destroyed before its work was done")

    def create_event(self) -> Event:
        with self._call("create_event"):
            return Event(self._new(self._events, None))

    def destroy_event(self, event: Event) -> None:
        with self._call("destroy_event"):
            self._take(self._events, event)

    def to_device(self, address: Address, array: Array, stream: Stream) -> None:
        with self._call("to_device"):
            place, source = self._pinned_place(array), array.reshape(-1).view(np.uint8)
            promised = source.copy()

            def copy() -> None:
                if not np.array_equal(source, promised):
                    raise MisuseError("a pinned array was written before the copy from it was done")
                self._memory(address)[: len(source)] = source

            self._queue(stream, Work(copy, frozenset({place}), frozenset({address})))

    def to_host(self, array: Array, address: Address, stream: Stream) -> None:
        with self._call("to_host"):
            place, goal = self._pinned_place(array), array.reshape(-1).view(np.uint8)
            if self._stream(stream).capturing is None:
                goal[:] = POISON

            def copy() -> None:
                if (goal != POISON).any():
                    raise MisuseError("a pinned array was written before the copy into it was done")
                goal[:] = self._memory(address)[: len(goal)]

            self._queue(stream, Work(copy, frozenset({address}), frozenset({place})))

    def kernel(self, stream: int, run: Callable[[], None], *, reads: Sequence[int], writes: Sequence[int]) -> None:
        """Queues arithmetic; ``run`` gets at its memory by `view`."""
        with self._call("kernel"):
            self._queue(Stream(stream), Work(run, frozenset(reads), frozenset(writes)))

    def view(self, address: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Device memory as kernels see it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self._memory(address)
        if size > len(block):
            raise MisuseError(f"{size} bytes of a block of {len(block)}")
        return block[:size].view(dtype).reshape(shape)

    def record(self, event: Event, stream: Stream) -> None:
        with self._call("record"):
            self._alive(self._events, event)
            self._events[event] = (stream, self._stream(stream).queued)

    def synchronize(self, event: Event) -> None:
        with self._call("synchronize"):
            mark = self._alive(self._events, event)
            if any(queue.capturing is not None for queue in self._streams.values()):
                raise MisuseError("waiting is forbidden while a stream is captured")
        if mark is None:
            return
        stream, goal = mark
        queue = self._stream(stream)
        failures = []
        with queue.running:  # other streams run on in other threads
            while queue.queued - len(queue.waiting) < goal:
                try:
                    queue.waiting[0].run()
                except Exception as error:
                    failures.append(error)
                queue.waiting.popleft()
        for failure in failures:
            raise failure

    def capture(self, stream: Stream, work: Callable[[], None]) -> CapturedGraph:
        with self._call("capture"):
            if not self._graphs_work:
                raise EngineError("this engine cannot be captured")
            queue = self._stream(stream)
            queue.capturing = []
            try:
                work()
                return CapturedGraph(self._new(self._graphs, tuple(queue.capturing)))
            finally:
                queue.capturing = None

    def launch(self, graph: CapturedGraph, stream: Stream) -> None:
        with self._call("launch"):
            for work in self._alive(self._graphs, graph):
                self._queue(stream, work)

    def destroy_graph(self, graph: CapturedGraph) -> None:
        with self._call("destroy_graph"):
            steps = {id(work) for work in self._take(self._graphs, graph)}
            if any(id(work) in steps for queue in self._streams.values() for work in queue.waiting):
                raise MisuseError("a graph was destroyed while it ran")

    @contextmanager
    def _call(self, name: str) -> Iterator[None]:
        with self._lock:
            if not getattr(self._threads, "depth", 0):
                raise MisuseError(f"{name} was called outside `current`")
            self.calls[name] += 1
            left = self.fail_at.pop(name, None)
            if left == 0:
                raise EngineError(f"{name} failed, as the test wants")
            if left is not None:
                self.fail_at[name] = left - 1
            yield

    def _queue(self, stream: Stream, work: Work) -> None:
        queue = self._stream(stream)
        if queue.capturing is not None:
            queue.capturing.append(work)
            return
        for block in work.reads | work.writes:
            if block not in self._device and block not in self._pinned:
                raise MisuseError(f"no memory is at {block:#x}")
        others = (q for handle, q in self._streams.items() if handle != stream)
        if any(work.collides(other) for q in others for other in list(q.waiting)):
            raise MisuseError("two streams use the same memory without waiting for each other")
        queue.waiting.append(work)
        queue.queued += 1
        self.most_in_flight = max(self.most_in_flight, sum(bool(q.waiting) for q in self._streams.values()))

    def _pinned_place(self, array: Array) -> int:
        if not array.flags.c_contiguous:
            raise MisuseError("a copy needs a contiguous array")
        start = array.ctypes.data
        for place, block in self._pinned.items():
            if place <= start <= place + block.nbytes - array.nbytes:
                return place
        raise MisuseError("a copy needs a pinned array")

    def _check_idle(self, block: int) -> None:
        if any(block in work.reads | work.writes for queue in self._streams.values() for work in queue.waiting):
            raise MisuseError("memory was freed before the work on it was done")

    def _memory(self, address: int) -> Array:
        return self._alive(self._device, address)

    def _stream(self, stream: int) -> Queue:
        return self._alive(self._streams, stream)

    def _new(self, things: dict[int, T], thing: T) -> int:
        handle = next(self._handles)
        things[handle] = thing
        return handle

    @staticmethod
    def _alive(things: dict[int, T], handle: int) -> T:
        if handle not in things:
            raise MisuseError(f"{handle:#x} was freed already, or never made")
        return things[handle]

    def _take(self, things: dict[int, T], handle: int) -> T:
        thing = self._alive(things, handle)
        del things[handle]
        return thing

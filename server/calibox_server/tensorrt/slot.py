"""One batch on its way through the device: its memory on both sides, its stream, and the engine ready for each size.

A batch travels padded to a bucket: a size that a context, and where possible a CUDA graph, was made for when the slot
was. Inputs of padding are chosen, as stale ones could ask for many steps of refinement; its images are whatever an
earlier batch left. Letters: B images of a batch.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TypeVar

from calibox_core.engines import EngineError
from calibox_server.cuda.driver import Address, Array, CapturedGraph, CudaDriver
from calibox_server.engine import EngineInput, EngineOutput
from calibox_server.tensorrt.api import Context
from calibox_server.tensorrt.plan import Plan
from calibox_server.tensorrt.tensors import Tensor

Handle = TypeVar("Handle")

# Cheap to compute and valid for every graph: nothing scores 1 but by chance.
PADDING = {"fusion": 1.0, "score_threshold": 1.0, "iou_threshold": 0.5, "refine_steps": 0}


def buckets_for(plan: Plan, max_batch: int) -> tuple[int, ...]:
    """Sizes that batches are padded to: 1, 2, 4, ... and ``max_batch``, or what the engine takes nearest above it."""
    largest = next(size for size in range(max_batch, plan.max_batch + 1) if plan.takes(size))
    sizes = {2**i for i in range(max_batch.bit_length())} | {largest}
    return tuple(sorted(size for size in sizes if plan.takes(size)))


class Slot:
    """Runs one batch at a time. Made, used and closed inside `CudaDriver.current`.

    Args:
        driver: of the device.
        plan: the engine.
        buckets: sizes of batches, ascending.

    Raises:
        EngineError: the device has not enough memory, or the engine refuses a size; nothing is left behind.
    """

    def __init__(self, driver: CudaDriver, plan: Plan, buckets: Sequence[int]) -> None:
        self._driver, self._plan, self._buckets = driver, plan, buckets
        self._contexts: dict[int, Context] = {}
        self._graphs: dict[int, CapturedGraph] = {}
        self._quiet = True  # nothing is queued, as far as we know
        self.memory_bytes = 0  # on the device
        with ExitStack() as made:
            self._made = made
            self._stream = self._own(driver.create_stream(), driver.destroy_stream)
            self._done = self._own(driver.create_event(), driver.destroy_event)
            tensors = {**plan.tensors.inputs, **plan.tensors.outputs}
            self._host = {name: self._own_pinned(tensor) for name, tensor in tensors.items()}
            tensors |= plan.tensors.unread
            self._device = {name: self._own_memory(tensor.size(buckets[-1])) for name, tensor in tensors.items()}
            scratch = self._own_memory(plan.scratch_size)
            made.callback(self._contexts.clear)
            made.callback(self._settle)
            self._quiet = False  # contexts may queue what their profile needs
            for size in buckets:
                self._contexts[size] = plan.context(size, self._device, scratch, self._stream)
            self.wait()
            self._made = made.pop_all()

    def run(self, batch: EngineInput) -> EngineOutput:
        """Detections of a batch of no more images than the largest bucket; the answer is a copy.

        Raises:
            EngineError: CUDA or TensorRT failed; the slot is quiet again and may be used.
        """
        count = len(batch.images)
        bucket = self._bucket(count)
        if not self._quiet:  # the last wait failed
            self.wait()
        try:
            self._send(batch, count, bucket)
            self._compute(bucket)
            for name in self._plan.tensors.outputs:
                self._driver.to_host(self._host[name][:count], self._device[name], self._stream)
        finally:
            self.wait()  # after a failure too: what was queued before it still uses this memory
        return EngineOutput(*(self._host[name][:count].copy() for name in EngineOutput._fields))

    def capture(self, bucket: int) -> None:
        """Makes runs of a bucket one launch; a batch of its size was run before, as a context settles in its first run.

        Raises:
            EngineError: not possible with this engine or driver; the bucket runs as before.
        """
        work = partial(self._plan.enqueue, self._contexts[bucket], self._stream)
        self._graphs[bucket] = self._own(self._driver.capture(self._stream, work), self._driver.destroy_graph)

    def wait(self) -> None:
        """Until all that was queued is done."""
        self._quiet = False
        self._driver.record(self._done, self._stream)
        self._driver.synchronize(self._done)
        self._quiet = True

    def close(self) -> None:
        """Frees everything; no run is under way."""
        self._settle()
        self._made.close()

    def _settle(self) -> None:
        if not self._quiet:
            with suppress(EngineError):  # a device that is lost does nothing any more
                self.wait()

    def _send(self, batch: EngineInput, count: int, bucket: int) -> None:
        for name in self._plan.tensors.inputs:
            rows, host = count, self._host[name]
            host[:count] = getattr(batch, name)
            if name in PADDING:
                host[count:bucket] = PADDING[name]
                rows = bucket
            self._driver.to_device(self._device[name], host[:rows], self._stream)

    def _bucket(self, count: int) -> int:
        if count > self._buckets[-1]:
            raise EngineError(f"{self._plan.name} runs at most {self._buckets[-1]} images at once, not {count}")
        return min(size for size in self._buckets if size >= count)

    def _compute(self, bucket: int) -> None:
        graph = self._graphs.get(bucket)
        if graph is None:
            self._plan.enqueue(self._contexts[bucket], self._stream)
        else:
            self._driver.launch(graph, self._stream)

    def _own(self, handle: Handle, end: Callable[[Handle], None]) -> Handle:
        self._made.callback(end, handle)
        return handle

    def _own_memory(self, size: int) -> Address:
        self.memory_bytes += size
        return self._own(self._driver.allocate(size), self._driver.free)

    def _own_pinned(self, tensor: Tensor) -> Array:
        return self._own(self._driver.pinned(tensor.shape(self._buckets[-1]), tensor.dtype), self._driver.free_pinned)

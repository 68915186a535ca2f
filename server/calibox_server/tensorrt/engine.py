"""TensorRT on a GPU: batches of many images, the copies of one beside the arithmetic of another.

Tested against a CUDA in memory (tests/support/memory_driver.py); docs/engines.md says what has run on a GPU.
"""

import weakref
from collections.abc import Sequence
from contextlib import ExitStack

import structlog

from calibox_core.engines import BuiltEngine, EngineError
from calibox_core.manifest import Manifest
from calibox_server.cuda.choice import open_driver
from calibox_server.cuda.driver import CudaDriver
from calibox_server.engine import EngineInput, EngineOutput, example_batch
from calibox_server.options import CudaDriverName
from calibox_server.tensorrt.api import TensorRt, import_tensorrt
from calibox_server.tensorrt.plan import Plan
from calibox_server.tensorrt.rack import Rack
from calibox_server.tensorrt.slot import Slot, buckets_for

log = structlog.get_logger()


def open_tensorrt(
    built: BuiltEngine,
    manifest: Manifest,
    *,
    instances: int = 1,
    max_batch: int | None = None,
    cuda_driver: CudaDriverName = "auto",
) -> "TensorRtEngine":
    """An engine of `calibox build --engine tensorrt` or `tensorrt-rtx` on this machine's GPU.

    Args:
        built: its folder and record, checked against the bundle.
        manifest: of the bundle.
        instances, max_batch: as of `TensorRtEngine`.
        cuda_driver: the Python package that reaches CUDA.

    Raises:
        EngineError: a package is missing, there is no GPU, or the engine does not fit them.
    """
    trt = import_tensorrt(built.record.runtime)
    return TensorRtEngine(trt, open_driver(cuda_driver), built, manifest, instances=instances, max_batch=max_batch)


class TensorRtEngine:
    """Runs an engine of TensorRT or TensorRT-RTX. It frees the device when it is closed or let go.

    Args:
        trt: the package.
        driver: of the device.
        built: its folder and record, checked against the bundle.
        manifest: of the bundle.
        instances: batches that are computed side by side. One fills a GPU; one more is kept ready.
        max_batch: most images in one run; None for what the engine was built for.

    Raises:
        EngineError: the engine does not fit the package, the device or ``max_batch``, or memory is short.
    """

    def __init__(
        self,
        trt: TensorRt,
        driver: CudaDriver,
        built: BuiltEngine,
        manifest: Manifest,
        *,
        instances: int = 1,
        max_batch: int | None = None,
    ) -> None:
        self.instances, self.in_flight = instances, instances + 1
        self._driver = driver
        with driver.current(), ExitStack() as made:
            plan = Plan(trt, built, manifest, driver.device)
            made.callback(plan.close)
            self.name, self.max_batch = plan.name, _largest(plan, max_batch, built)
            buckets = buckets_for(plan, self.max_batch)
            slots = []
            for _ in range(self.in_flight):
                slots.append(Slot(driver, plan, buckets))
                made.callback(slots[-1].close)
            _warm_up(slots, [example_batch(manifest, bucket) for bucket in buckets])
            # Whether every run is one launch.
            self.graphs = plan.captures_itself or _capture(slots, buckets, self.name)
            # Of the device, as far as it was asked for here: CUDA keeps more for itself, and of graphs nobody tells.
            self.memory_bytes = plan.weights_size + sum(slot.memory_bytes for slot in slots)
            owned = made.pop_all()
        self._rack = Rack(slots, self.name)
        self._end = weakref.finalize(self, _release, driver, owned)

    def run(self, batch: EngineInput) -> EngineOutput:
        """Detections of one batch. More callers than ``in_flight`` wait for a slot.

        Raises:
            EngineError: CUDA or TensorRT failed, or the engine was closed.
        """
        with self._rack.lend() as slot, self._driver.current():
            return slot.run(batch)

    def close(self) -> None:
        """Lets the runs under way finish, refuses those that wait, and frees the device."""
        self._rack.close()
        self._end()


def _release(driver: CudaDriver, owned: ExitStack) -> None:
    with driver.current():
        owned.close()


def _largest(plan: Plan, asked: int | None, built: BuiltEngine) -> int:
    if asked is not None and asked > plan.max_batch:
        raise EngineError(
            f"{built.folder} was built for batches of at most {plan.max_batch}, and {asked} were asked for: lower "
            f"--max-batch, or build it again with `calibox build --max-batch {asked}`"
        )
    return asked or plan.max_batch


def _warm_up(slots: Sequence[Slot], batches: Sequence[EngineInput]) -> None:
    for slot in slots:
        for batch in batches:
            slot.run(batch)


def _capture(slots: Sequence[Slot], buckets: Sequence[int], name: str) -> bool:
    """Makes CUDA graphs of every bucket of every slot; whether that worked."""
    try:
        for slot in slots:
            for bucket in buckets:
                slot.capture(bucket)
    except EngineError as error:
        log.warning("cuda_graphs_unavailable", engine=name, reason=str(error))
        return False
    return True

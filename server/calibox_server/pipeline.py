"""One model's path from encoded images to detections: decode, letterbox, batch, run, un-letterbox."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.letterbox import Letterbox
from calibox_core.manifest import Manifest
from calibox_server.batcher import Batcher, Submit
from calibox_server.decoding import decode_into
from calibox_server.engine import Engine, EngineInput, EngineOutput
from calibox_server.errors import DeadlineError, ServiceError
from calibox_server.metrics import ModelMetrics
from calibox_server.parameters import Parameters
from calibox_server.queue import Policy
from calibox_server.requests import ImagePart
from calibox_server.slots import Slot, SlotPool

clock = time.monotonic  # the one clock of deadlines and stage times, in seconds


@dataclass(frozen=True, slots=True)
class ImageDetections:
    """Detections of one image, best ranking first. Letters: n detections."""

    width: int  # of the upright image, in pixels
    height: int
    boxes: NDArray[np.float32]  # [n, 4] x1, y1, x2, y2 in pixels of the upright image
    labels: NDArray[np.int32]  # [n] 0-based class index
    classification_scores: NDArray[np.float32]  # [n]
    localization_scores: NDArray[np.float32]  # [n]
    scores: NDArray[np.float32]  # [n] reported, after the score map


@dataclass(frozen=True, slots=True)
class StageTimes:
    """How long a request's slowest image spent in each stage, in seconds."""

    decode: float  # including the wait for a decode thread
    queue: float
    engine: float


@dataclass(frozen=True, slots=True)
class Work:
    """What the batcher holds of one image."""

    slot: Slot
    parameters: Parameters
    refine_steps: int
    submitted: float


@dataclass(frozen=True, slots=True)
class RawDetections:
    """One image's rows of the engine's output, padding cut off, with the times of its batch."""

    rows: EngineOutput
    queue: float
    engine: float


class Pipeline:
    """Serves one model.

    Args:
        manifest, engine: the model, already warmed up.
        policy, queue_size: of its batcher.
        decoders: threads shared by all models.
        max_pixels: of one image.
        metrics: of this model.
    """

    def __init__(
        self,
        manifest: Manifest,
        engine: Engine,
        *,
        policy: Policy,
        queue_size: int,
        decoders: Executor,
        max_pixels: int,
        metrics: ModelMetrics,
    ) -> None:
        self.manifest = manifest
        self.engine = engine
        self._max_pixels = max_pixels
        self._metrics = metrics
        self._decoders = decoders
        self._runners = ThreadPoolExecutor(engine.in_flight, thread_name_prefix=f"engine-{manifest.name}")
        size = manifest.input
        # Free slots that are worth keeping: what the engine holds, and as much again on its way there.
        self._slots = SlotPool(height=size.height, width=size.width, keep=2 * engine.in_flight * policy.max_batch)
        self._batcher: Batcher[Work, RawDetections] = Batcher(
            self._run_batch,
            policy,
            queue_size=queue_size,
            release=lambda work: self._slots.give(work.slot),
            clock=clock,
        )
        metrics.watch_queue(lambda: self.waiting)

    @property
    def waiting(self) -> int:
        """Images that are decoded and wait for the engine."""
        return self._batcher.waiting

    def admit(self, images: int) -> AbstractContextManager[Submit[Work, RawDetections]]:
        """Takes places in the queue, before anything is decoded.

        Raises:
            OverloadedError: not so many are free.
            StoppingError: the server is stopping.
        """
        return self._batcher.admit(images)

    def check_room(self) -> None:
        """Raises what `admit` would raise for one image."""
        self._batcher.check(1)

    async def detect(
        self,
        submit: Submit[Work, RawDetections],
        images: Sequence[ImagePart],
        parameters: Parameters,
        *,
        deadline: float,
    ) -> tuple[list[ImageDetections], StageTimes]:
        """Detections of every image, or the error of the first image that cannot be read.

        Args:
            submit: from `admit`.
            images: as they were sent; all are decoded before the engine sees the first.
            parameters: the same for all images of the request, but for the steps of a refinement.
            deadline: on `clock`.

        Raises:
            ServiceError: as `decode_into` and `Batcher` say.
        """
        started = clock()
        placed = await self._decode_all(images, deadline)
        decoded = clock()
        pairs = zip(placed, parameters.refine_steps, strict=True)
        work = [Work(slot, parameters, steps, decoded) for (slot, _), steps in pairs]
        raw = await _all([submit(one, deadline=deadline) for one in work])
        self._metrics.images.inc(len(raw))
        times = StageTimes(decoded - started, max(r.queue for r in raw), max(r.engine for r in raw))
        found = zip(raw, placed, strict=True)
        return [finish(r.rows, letterbox, parameters, self.manifest) for r, (_, letterbox) in found], times

    async def close(self, timeout: float) -> None:
        """Finishes what was admitted, at most for ``timeout`` seconds."""
        await self._batcher.close(timeout)
        self._runners.shutdown(wait=False, cancel_futures=True)

    async def _decode_all(self, images: Sequence[ImagePart], deadline: float) -> list[tuple[Slot, Letterbox]]:
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._decoders, self._decode, image, deadline) for image in images]
        if len(jobs) == 1:
            return [await jobs[0]]
        done = await asyncio.gather(*jobs, return_exceptions=True)
        placed = [item for item in done if not isinstance(item, BaseException)]
        for failure in done:
            if isinstance(failure, BaseException):
                for slot, _ in placed:
                    self._slots.give(slot)
                raise failure
        return placed

    def _decode(self, image: ImagePart, deadline: float) -> tuple[Slot, Letterbox]:
        if clock() >= deadline:
            raise DeadlineError("the deadline passed before the image was decoded; allow more with timeout_ms")
        slot = self._slots.take()
        try:
            pad = self.manifest.input.pad_value
            return slot, decode_into(slot, image, max_pixels=self._max_pixels, pad_value=pad)
        except BaseException:
            self._slots.give(slot)
            raise

    async def _run_batch(self, batch: Sequence[Work]) -> list[RawDetections]:
        self._metrics.batch_size.observe(len(batch))
        return await asyncio.get_running_loop().run_in_executor(self._runners, self._run_here, batch)

    def _run_here(self, batch: Sequence[Work]) -> list[RawDetections]:
        started = clock()
        out = self.engine.run(stack(batch))
        engine = clock() - started
        return [RawDetections(unpadded(out, i), started - work.submitted, engine) for i, work in enumerate(batch)]


async def _all(jobs: list[Coroutine[Any, Any, RawDetections]]) -> list[RawDetections]:
    """Every result in order, or the first error; then the other jobs are cancelled."""
    if len(jobs) == 1:
        return [await jobs[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except* ServiceError as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def stack(batch: Sequence[Work]) -> EngineInput:
    """One engine input of a batch. A single image's slot is used as it is; more are copied side by side."""
    asked = [work.parameters for work in batch]
    return EngineInput(
        images=batch[0].slot[None] if len(batch) == 1 else np.stack([work.slot for work in batch]),
        fusion=np.array([p.exponents for p in asked], np.float32),
        score_threshold=np.array([p.score_threshold for p in asked], np.float32),
        iou_threshold=np.array([p.iou_threshold for p in asked], np.float32),
        refine_steps=np.array([work.refine_steps for work in batch], np.int32),
    )


def unpadded(out: EngineOutput, index: int) -> EngineOutput:
    """Views of one image's rows."""
    count = int(out.num_detections[index])
    return EngineOutput(
        num_detections=out.num_detections[index : index + 1],
        boxes=out.boxes[index, :count],
        labels=out.labels[index, :count],
        classification_scores=out.classification_scores[index, :count],
        localization_scores=out.localization_scores[index, :count],
        scores=out.scores[index, :count],
    )


def finish(rows: EngineOutput, letterbox: Letterbox, parameters: Parameters, manifest: Manifest) -> ImageDetections:
    """The graph's rows of one image as the request wants them: pixels of its image, mapped scores, its classes."""
    kept: slice | NDArray[np.intp] = slice(parameters.max_detections)
    if parameters.classes is not None:
        kept = np.flatnonzero(np.isin(rows.labels, list(parameters.classes)))[: parameters.max_detections]
    return ImageDetections(
        width=letterbox.width,
        height=letterbox.height,
        boxes=letterbox.to_image(rows.boxes[kept]),
        labels=rows.labels[kept],
        classification_scores=rows.classification_scores[kept],
        localization_scores=rows.localization_scores[kept],
        scores=manifest.score_map.apply(rows.scores[kept]),
    )

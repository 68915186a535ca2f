"""Batches between the batcher and the engine, apart from the pipeline.

Nothing here refers back to the pipeline, so that no cycle keeps an engine alive once its pipeline is closed: the memory
of an unloaded model is free at once, not when the garbage collector comes by.
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from calibox_server.background import Crew, reply_from_thread
from calibox_server.engine import CandidateEngine, CandidateOutput, Closable, Engine, EngineInput, EngineOutput
from calibox_server.errors import DeadlineError
from calibox_server.lone import runner_alone
from calibox_server.metrics import ModelMetrics
from calibox_server.parameters import Parameters
from calibox_server.queue import Reply
from calibox_server.slots import Slot

clock = time.monotonic  # the one clock of deadlines and stage times, in seconds


@dataclass(slots=True, eq=False)
class Work:
    """What the batcher holds of one image."""

    slot: Slot
    parameters: Parameters
    refine_steps: int
    submitted: float
    candidates: bool = False  # whether what was there before suppression is wanted too
    unwanted: bool = field(default=False, init=False)  # nobody waits for it any more

    def decode(self) -> None:
        """Puts the pixels into ``slot``, where they do not lie there yet; called in the engine's thread."""


class RawDetections(NamedTuple):
    """One image's rows of the engine's output, padding cut off, with the times of its batch."""

    rows: EngineOutput
    queue: float
    engine: float
    batch: int = 1  # images that ran together
    decode: float = 0.0  # where that was done by the engine's thread
    candidates: CandidateOutput | None = None  # one image's, padding included, where its batch fetched them


class EngineRunner:
    """Runs batches in threads of its own.

    Args:
        engine: as many threads as it takes runs at once.
        metrics: of the model.
        name: of the threads.
        busy: the threads of all models that run a batch now; a set of its own when None.
    """

    def __init__(self, engine: Engine, metrics: ModelMetrics, name: str, busy: set[int] | None = None) -> None:
        self._engine = engine
        self._run_alone = runner_alone(engine)
        self._busy = set() if busy is None else busy
        self._metrics = metrics
        self._threads = Crew(engine.in_flight, f"engine-{name}")
        self._running: dict[int, float] = {}  # when the run of each thread began

    @property
    def longest_run(self) -> float:
        """Seconds since the oldest of the runs that go on began; 0 where none does."""
        return max((clock() - began for began in list(self._running.values())), default=0.0)

    def run(self, batch: Sequence[Work], reply: Reply[Sequence[RawDetections]]) -> None:
        """One batch to as many results, in order, as a `Batcher` has its runner called."""
        reply_from_thread(reply, self._threads, self._run_timed, batch)

    async def close(self, *, idle: bool) -> None:
        """Ends the threads, and the engine itself where it wants to be closed and nothing runs in it (``idle``)."""
        self._threads.close()
        if idle and isinstance(self._engine, Closable):
            await asyncio.to_thread(self._engine.close)

    def _run_timed(self, batch: Sequence[Work]) -> Sequence[RawDetections]:
        thread = threading.get_ident()
        alone = not self._busy
        self._busy.add(thread)
        self._running[thread] = clock()
        try:
            return self._run_here(batch, alone)
        finally:
            del self._running[thread]
            self._busy.discard(thread)

    def _run_here(self, batch: Sequence[Work], alone: bool) -> list[RawDetections]:
        started = clock()
        if all(work.unwanted for work in batch):  # they were handed over ahead, and left since
            raise DeadlineError("nobody waits for this batch")
        for work in batch:
            work.decode()
        decoded = clock()
        self._metrics.batch_size.observe(len(batch))
        out, found = self._run_engine(batch, alone and len(self._busy) == 1)
        engine = clock() - decoded
        return [
            RawDetections(
                rows=unpadded(out, i),
                queue=started - work.submitted,
                engine=engine,
                batch=len(batch),
                decode=decoded - started,
                candidates=found and CandidateOutput(*(a[i] for a in found)),
            )
            for i, work in enumerate(batch)
        ]

    def _run_engine(self, batch: Sequence[Work], alone: bool) -> tuple[EngineOutput, CandidateOutput | None]:
        """Candidates are fetched for the whole batch when one of its images wants them."""
        if any(work.candidates for work in batch) and isinstance(self._engine, CandidateEngine):
            return self._engine.run_with_candidates(stack(batch))
        if alone and self._run_alone is not None:
            return self._run_alone(stack(batch)), None
        return self._engine.run(stack(batch)), None


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

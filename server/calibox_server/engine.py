"""What the server asks of an inference engine. Letters: B images, N rows of the outputs (detections at most)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from calibox_core.manifest import Manifest


@dataclass(frozen=True, slots=True)
class EngineInput:
    """One batch; every field but the images is one value per image, so that requests with other settings mix."""

    images: NDArray[np.uint8]  # [B, H, W, 3] RGB, letterboxed
    fusion: NDArray[np.float32]  # [B, 3] exponents (a, b, g)
    score_threshold: NDArray[np.float32]  # [B]
    iou_threshold: NDArray[np.float32]  # [B]
    refine_steps: NDArray[np.int32]  # [B]


class EngineOutput(NamedTuple):
    """The graph's outputs, in the order in which they are fetched. Rows from ``num_detections`` on are padding."""

    num_detections: NDArray[np.int32]  # [B]
    boxes: NDArray[np.float32]  # [B, N, 4] x1, y1, x2, y2 in letterboxed pixels
    labels: NDArray[np.int32]  # [B, N] 0-based class index
    classification_scores: NDArray[np.float32]  # [B, N]
    localization_scores: NDArray[np.float32]  # [B, N]
    scores: NDArray[np.float32]  # [B, N]


class CandidateOutput(NamedTuple):
    """What the graph had before suppression, best key first; K rows of an image, the unused ones with the label -1."""

    candidate_boxes: NDArray[np.float32]  # [B, K, 4] x1, y1, x2, y2 in letterboxed pixels
    candidate_labels: NDArray[np.int32]  # [B, K] 0-based class index
    candidate_classification_scores: NDArray[np.float32]  # [B, K]
    candidate_localization_scores: NDArray[np.float32]  # [B, K]


class EngineFacts(Protocol):
    """What is told of an engine, wherever it runs."""

    @property
    def name(self) -> str:
        """Runtime, version and device in a few words."""

    @property
    def max_batch(self) -> int:
        """Most images in one run."""

    @property
    def instances(self) -> int:
        """Runs that really proceed side by side."""


class Engine(EngineFacts, Protocol):
    """A model that is loaded and warmed up. `run` blocks and may be called from ``in_flight`` threads at once."""

    @property
    def in_flight(self) -> int:
        """Runs that may be handed over at once; more than ``instances`` where the engine keeps batches ready."""

    def run(self, batch: EngineInput) -> EngineOutput:
        """Detections of one batch, which holds between 1 and ``max_batch`` images."""


@runtime_checkable
class KnowsCandidates(Protocol):
    """An engine that may also tell what it had before suppression, wherever it runs."""

    @property
    def tells_candidates(self) -> bool:
        """Whether this one does."""


@runtime_checkable
class CandidateEngine(KnowsCandidates, Protocol):
    """One of this process."""

    def run_with_candidates(self, batch: EngineInput) -> tuple[EngineOutput, CandidateOutput]:
        """As `Engine.run`, and the candidates of every image."""


class FetchedByName(ABC):
    """The runs of an engine that computes what is asked for by name."""

    def run(self, batch: EngineInput) -> EngineOutput:
        """Detections of one batch."""
        return EngineOutput(*self._fetch(batch, EngineOutput._fields))

    def run_with_candidates(self, batch: EngineInput) -> tuple[EngineOutput, CandidateOutput]:
        """Detections of one batch, and what was there before suppression."""
        found = self._fetch(batch, (*EngineOutput._fields, *CandidateOutput._fields))
        own = len(EngineOutput._fields)
        return EngineOutput(*found[:own]), CandidateOutput(*found[own:])

    @abstractmethod
    def _fetch(self, batch: EngineInput, names: Sequence[str]) -> list[NDArray[Any]]:
        """These outputs of one batch, in order."""


@runtime_checkable
class KnowsItsPlace(Protocol):
    """An engine that may run on the CPU, where instances and threads are a choice."""

    @property
    def on_cpu(self) -> bool:
        """Whether it does."""


def runs_on_cpu(engine: EngineFacts) -> bool:
    """Whether an engine shares the cores with everything else."""
    return isinstance(engine, KnowsItsPlace) and engine.on_cpu


@runtime_checkable
class Closable(Protocol):
    """An engine that holds more than memory of this process."""

    def close(self) -> None:
        """Frees everything; nothing runs any more."""


def tells_candidates(engine: EngineFacts) -> bool:
    """Whether it can be asked for what it had before suppression."""
    return isinstance(engine, KnowsCandidates) and engine.tells_candidates


def example_batch(manifest: Manifest, size: int) -> EngineInput:
    """Noise under the model's own settings and all steps of refinement, the same on every call."""
    shape = (size, manifest.input.height, manifest.input.width, 3)
    return EngineInput(
        images=np.random.default_rng(0).integers(0, 256, shape, np.uint8),
        fusion=np.tile(np.array(manifest.fusion.exponents(), np.float32), (size, 1)),
        score_threshold=np.full(size, manifest.thresholds.score, np.float32),
        iou_threshold=np.full(size, manifest.thresholds.iou, np.float32),
        refine_steps=np.full(size, 0 if manifest.refinement is None else manifest.refinement.steps, np.int32),
    )


def warm_up(engine: Engine, manifest: Manifest) -> None:
    """Runs the smallest and the largest batch once, so that no request pays for first-time allocations."""
    for size in {1, engine.max_batch}:
        engine.run(example_batch(manifest, size))

"""Do a bundle's engines answer as its ONNX file? In float32 exactly, wherever the answer is sure; others drift."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bundle import Bundle
from calibox_core.engines import ENGINES_FOLDER, EngineError, find_engines, read_engine
from calibox_export.engines.accuracy import Drift, Found, drift, found_in
from calibox_export.engines.backends import BACKENDS
from calibox_export.parity import Arrays, Graph, Setting, compare_engine, graph_feeds
from calibox_export.sameness import Outcome

ALL, NONE = "all", "none"


@dataclass(frozen=True, slots=True)
class EngineLine:
    """One engine in the report."""

    engine: str  # runtime/precision
    drift: Drift | None = None  # from the ONNX file, over all batches; null where it was not opened
    outcome: Outcome | None = None  # of float32 alone
    reason: str = ""  # why it was not opened

    @property
    def same(self) -> bool:
        """Whether nothing is there that is wrong; a lower precision may be different."""
        return self.outcome is None or self.outcome.different == 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "engine": self.engine,
            "drift": None if self.drift is None else self.drift._asdict(),
            "outcome": None if self.outcome is None else asdict(self.outcome),
            "reason": self.reason,
        }


def chosen_engines(bundle: Bundle, wanted: str) -> list[Path]:
    """Folders of the engines that are meant.

    Args:
        bundle: whose.
        wanted: all, none, a runtime, or runtime/precision.

    Raises:
        EngineError: there is none of that name.
    """
    if wanted == NONE:
        return []
    found = {f"{folder.parent.name}/{folder.name}": folder for folder in find_engines(bundle)}
    chosen = [folder for name, folder in found.items() if wanted in (ALL, name, folder.parent.name)]
    if not chosen and wanted != ALL:
        raise EngineError(
            f"{bundle.folder / ENGINES_FOLDER} has no engine {wanted}; it has {', '.join(found) or 'none'}: name "
            "one of these, or all, or none"
        )
    return chosen


def compare_engines(
    bundle: Bundle,
    folders: Sequence[Path],
    images: NDArray[np.uint8],
    settings: Sequence[Setting],
    *,
    graph: Graph,
    batches: Sequence[int],
) -> Iterator[EngineLine]:
    """A line for each engine.

    Args:
        bundle: whose engines.
        folders: of the engines.
        images: letterboxed, uint8 ``[I, H, W, 3]``.
        settings: one per image.
        graph: of the bundle in ONNX Runtime.
        batches: images per run, each size once through all images.
    """
    starts = [slice(start, start + size) for size in batches for start in range(0, len(images), size)]
    feeds = [graph_feeds(images[rows], settings[rows]) for rows in starts]
    expected = [graph(one) for one in feeds]
    for folder in folders:
        name = f"{folder.parent.name}/{folder.name}"
        try:
            engine = open_engine(bundle, folder)
            found = [engine(one) for one in feeds]
        except EngineError as error:
            yield EngineLine(name, reason=str(error))
            continue
        moved = drift(list(_rows(expected)), list(_rows(found)))
        if folder.name != "fp32":
            yield EngineLine(name, moved)
            continue
        outcome = Outcome()
        for rows, one, other in zip(starts, found, expected, strict=True):
            outcome += compare_engine(one, other, settings[rows], bundle.manifest)
        yield EngineLine(name, moved, outcome)


def open_engine(bundle: Bundle, folder: Path, *, as_served: bool = False) -> Graph:
    """An engine of a bundle, to run here; ``as_served`` as `Backend.open` says.

    Raises:
        EngineError: it is not whole, or cannot be used here.
    """
    record = read_engine(bundle, folder).record
    backend = BACKENDS[record.runtime]
    backend.version()
    backend.check(record.precision)
    opened = backend.open(folder, record.precision, as_served=as_served)
    if opened is None:
        raise EngineError(f"built for {', '.join(record.needs)}, which is not here")
    return opened


def _rows(batches: Sequence[Arrays]) -> Iterator[Found]:
    for outputs in batches:
        yield from (found_in(outputs, i) for i in range(len(outputs["num_detections"])))

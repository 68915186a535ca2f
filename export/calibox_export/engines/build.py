"""`calibox build`: an engine for this machine beside a bundle's ONNX file, kept only if it answers as well."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from calibox_core import __version__
from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.dataset import DataFolder, Split
from calibox_core.engines import (
    BuiltEngine,
    EngineError,
    EngineRecord,
    engine_folder,
    new_engine,
    write_record,
)
from calibox_core.precision import Accuracy, Precision
from calibox_export.engines.accuracy import compare, measure, own_setting, placed_images
from calibox_export.engines.backend import Backend, Work
from calibox_export.parity import Arrays, Graph, graph_feeds, open_graph

MEASURED: Split = "val"
GUARDED = ("AP", "AP75")  # neither may fall by more than the limit


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOrder:
    """What to build, and on which data to prove it."""

    precision: Precision
    folder: DataFolder | None = None  # its val split is measured; int8 takes its ranges from the train split
    dataset: str = ""  # how the record names it
    limit: float = 0.5  # points of AP and AP75 that may be lost
    force: bool = False  # keep it all the same
    calibration_images: int = 32
    max_batch: int = 8
    targets: tuple[str, ...] = ()
    embed_plugin: bool = False


def build_engine(backend: Backend, bundle: Bundle, order: BuildOrder) -> BuiltEngine:
    """Writes ``engines/<runtime>/<precision>``, whole or not at all; an older one is replaced.

    Raises:
        EngineError: the runtime is missing or cannot do what was ordered here, a lower precision has no data to be
            proven on, or it loses more than the limit.
        DatasetError: the data cannot be read.
    """
    precision = order.precision
    version = _checked(backend, order)
    destination = engine_folder(bundle.folder, backend.runtime, precision)
    with new_engine(destination) as scratch:
        calibration = partial(calibration_feeds, bundle, order)
        work = Work(bundle, precision, calibration, order.max_batch, order.targets, order.embed_plugin)
        facts = backend.write(work, scratch)
        accuracy = _measured(bundle, order, backend.open(scratch, precision) if order.folder else None)
        check_loss(accuracy, order)
        record = EngineRecord(
            runtime=backend.runtime,
            precision=precision,
            runtime_version=version,
            needs=facts.needs,
            plugin_sha256=facts.plugin_sha256,
            model_sha256=bundle.manifest.files[MODEL_FILE],
            files={},
            calibox_version=__version__,
            created=datetime.now(UTC).replace(microsecond=0),
            accuracy=accuracy,
        )
        record = write_record(scratch, record)
    return BuiltEngine(destination, record)


def _checked(backend: Backend, order: BuildOrder) -> str:
    """The runtime's version, once it is known that it can do the order."""
    if order.precision not in backend.precisions:
        raise EngineError(
            f"{backend.runtime} has no engines in {order.precision}: choose --precision from "
            f"{', '.join(backend.precisions)}"
        )
    elsewhere = order.force and order.targets  # where no data can prove it
    if order.precision != "fp32" and order.folder is None and not elsewhere:
        raise EngineError(
            f"an engine in {order.precision} is kept only after it was measured: name a data set with --data, in the "
            "layout that the model was trained on"
        )
    version = backend.version()
    backend.check(order.precision)
    return version


def calibration_feeds(bundle: Bundle, order: BuildOrder) -> Iterator[Arrays]:
    """Training images, for ranges.

    Raises:
        EngineError: no data were named.
        DatasetError: an image cannot be read.
    """
    if order.folder is None:
        raise EngineError("ranges are taken from training images: name a data set with --data")
    for image in placed_images(order.folder, "train", bundle.manifest, most=order.calibration_images):
        yield graph_feeds(image.pixels[None], [own_setting(bundle.manifest)])


def _measured(bundle: Bundle, order: BuildOrder, engine: Graph | None) -> Accuracy | None:
    if order.folder is None:
        return None
    if engine is None:
        if order.precision == "fp32" or order.force:
            return None
        raise EngineError(
            f"an engine in {order.precision} for another device cannot be measured here: build it on that device, or "
            "keep it unmeasured with --force"
        )
    reference, lower = (
        measure(graph, bundle.manifest, order.folder, MEASURED) for graph in (open_graph(bundle.model_path), engine)
    )
    return compare(reference, lower, dataset=f"{order.dataset} {MEASURED}")


def points_lost(accuracy: Accuracy) -> dict[str, float]:
    """Points of the guarded metrics that an engine is below the ONNX file; negative where it is above."""
    pairs = {name: (accuracy.reference[name], accuracy.engine[name]) for name in GUARDED}
    return {name: (a - b) * 100 for name, (a, b) in pairs.items() if a is not None and b is not None}


def check_loss(accuracy: Accuracy | None, order: BuildOrder) -> None:
    """Holds what was measured against the limit.

    Raises:
        EngineError: more is lost, and nobody said that it may be.
    """
    if accuracy is None or order.force:
        return
    lost = {name: points for name, points in points_lost(accuracy).items() if points > order.limit}
    if lost:
        said = ", ".join(f"{points:.2f} points of {name}" for name, points in lost.items())
        raise EngineError(
            f"in {order.precision} the model loses {said} on {accuracy.dataset} ({accuracy.images} images), more than "
            f"the limit of {order.limit:g}: nothing was written; keep it all the same with --force, or raise --limit"
        )

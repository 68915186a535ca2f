"""The whole chain: every place in its turn, each held against the one before it and against the first."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from calibox_core import __version__
from calibox_core.bundle import MODEL_FILE, Bundle
from calibox_core.coco_matching import ObjectBoxes
from calibox_core.cpu import cpu_name
from calibox_core.dataset import DataFolder, Split
from calibox_core.engines import EngineError
from calibox_core.errors import DatasetError
from calibox_core.parity import Drift, Hop, Parity, Stop
from calibox_export.chain.drift import Taken, drift_between, objects_of, take
from calibox_export.chain.over_http import Serve, http_stage
from calibox_export.chain.stages import Stage, answers, engine_stage, onnx_stage, torch_stage
from calibox_export.engines.accuracy import placed_images
from calibox_export.engines.agreement import ALL, chosen_engines
from calibox_export.verify import FOREIGN

NO_CHECKPOINT = "pytorch: no checkpoint was named, so the chain begins at the ONNX file; name it with --checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainOrder:
    """What to measure, and on which data."""

    folder: DataFolder
    dataset: str  # how the certificate names it
    split: Split = "val"
    images: int | None = None  # the first by id; all when None
    checkpoint: Path | None = None
    iou_net: Path | None = None
    engines: str = ALL
    limit: float = 0.5  # points of AP and AP75 that a lower precision may lose
    serve: Serve | None = None  # what starts a server; the command `calibox serve` when None
    tell: Callable[[str], None] = lambda _: None  # hears the name of each place before it is asked


def verify_chain(bundle: Bundle, order: ChainOrder) -> Parity:
    """Measures every place that works here.

    Raises:
        ExportError: the checkpoint is of another model, or a server does not answer.
        EngineError: there is no engine of the name that was asked for.
        DatasetError: the data cannot be read, or are of other classes than the model's.
    """
    annotations = order.folder.annotations(order.split)
    records = sorted(annotations["images"], key=lambda image: int(image["id"]))[: order.images]
    if not records:
        raise DatasetError(f"{order.folder.source(order.split)} lists no images; name another split with --split")
    objects = objects_of(annotations, [image["id"] for image in records], bundle.manifest)
    stages, left_out = _stages(bundle, order)
    taken = _ask_all(stages, bundle, order, objects, left_out)
    return Parity(
        bundle=bundle.manifest.title,
        model_sha256=bundle.manifest.files[MODEL_FILE],
        dataset=f"{order.dataset} {order.split}",
        data_sha256=_data_sha256(order, [image["file_name"] for image in records]),
        images=len(records),
        limit=order.limit,
        machine=cpu_name(),
        calibox_version=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        first=Stop(name=stages[0].name, version=stages[0].version, metrics=taken[stages[0].name].measure.metrics),
        hops=tuple(_hops(stages, taken, order.limit)),
        left_out=tuple(left_out),
    )


def _stages(bundle: Bundle, order: ChainOrder) -> tuple[list[Stage], list[str]]:
    """The places in their order, and what is none here."""
    left_out = [] if order.checkpoint else [NO_CHECKPOINT]
    first = torch_stage(bundle, order.checkpoint, order.iou_net) if order.checkpoint else None
    if order.checkpoint and first is None:
        left_out.append(f"pytorch: {FOREIGN}")
    onnx = onnx_stage(bundle, first.name if first else None)
    runtimes = [onnx]
    for folder in chosen_engines(bundle, order.engines):
        try:
            runtimes.append(engine_stage(bundle, folder, onnx.name))
        except EngineError as error:
            left_out.append(f"{folder.parent.name}/{folder.name}: {error}")
    over_http = [http_stage(bundle, order.folder, served, order.serve) for served in runtimes]
    return [*([first] if first else []), *runtimes, *over_http], left_out


def _ask_all(
    stages: Sequence[Stage], bundle: Bundle, order: ChainOrder, objects: Sequence[ObjectBoxes], left_out: list[str]
) -> dict[str, Taken]:
    """What each place answered, by its name; why one did not is added to ``left_out``."""
    taken: dict[str, Taken] = {}
    for stage in stages:
        if stage.before is not None and stage.before not in taken:
            continue  # told already with the place that it would be held against
        order.tell(stage.name)
        try:
            found = answers(stage, placed_images(order.folder, order.split, bundle.manifest, most=len(objects)))
        except EngineError as error:
            left_out.append(f"{stage.name}: {error}")
            continue
        taken[stage.name] = take(found, objects, len(bundle.manifest.classes))
    return taken


def _hops(stages: Sequence[Stage], taken: Mapping[str, Taken], limit: float) -> Iterator[Hop]:
    first = stages[0].name
    for stage in stages:
        if stage.before is None or stage.name not in taken:
            continue
        own = taken[stage.name]
        drift = drift_between(taken[stage.before], own)
        reason = broken_by(stage, drift, len(own.answers), limit)
        yield Hop(
            name=stage.name,
            version=stage.version,
            metrics=own.measure.metrics,
            before=stage.before,
            exact=stage.exact,
            holds=not reason,
            reason=reason,
            from_before=drift,
            from_first=drift if stage.before == first else drift_between(taken[first], own),
        )


def broken_by(stage: Stage, drift: Drift, images: int, limit: float) -> str:
    """What does not hold of a place; empty where all does.

    Args:
        stage: the place.
        drift: from the one before it.
        images: how many were shown.
        limit: points of AP and AP75 that it may lose where it need not be exact.
    """
    if stage.exact:
        if not drift.different:
            return ""
        return (
            f"{images - round(drift.same_images * images)} of {images} images do not keep the boxes and scores of "
            f"{stage.before}: {drift.different} detections differ, {drift.unpaired:.1%} are alone, and in pairs scores "
            f"are up to {drift.score.largest:.1e} apart and boxes up to {drift.box.largest:.2g} px"
        )
    lost = {name: -100 * gap.value for name, gap in drift.metrics.items() if gap is not None}
    said = ", ".join(f"{points:.2f} points of {name}" for name, points in lost.items() if points > limit)
    return f"it loses {said} against {stage.before}, more than the limit of {limit:g}" if said else ""


def _data_sha256(order: ChainOrder, names: Sequence[str]) -> str:
    """Over the annotation files of the split, then the images in the order of their ids."""
    digest = hashlib.sha256()
    for path in (*order.folder.annotation_files(order.split), *(order.folder.images / name for name in names)):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()

"""Does a bundle answer as the network that it was made from? Measured on real images, at several batch sizes."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bundle import Bundle
from calibox_core.dataset import DataFolder, Split
from calibox_core.errors import DatasetError, ImageError
from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import InputSpec, Manifest
from calibox_export.engines.agreement import NONE, EngineLine, chosen_engines, compare_engines
from calibox_export.errors import ExportError
from calibox_export.parity import compare_batch, open_graph, usual_settings
from calibox_export.sameness import Outcome

if TYPE_CHECKING:
    from calibox_export.source import Reference, Source

# What a manifest's `quality.method` says of a separate quality network.
IOU_NET = "iou_net"
# What the recipe of a detector of `calibox attach-quality` says of it.
FOREIGN_DETECTOR = "detector"
FOREIGN = (
    "PyTorch does not run the detector of this bundle, which came as an ONNX file: its steps of refinement were "
    "computed by PyTorch, and the operator was compared with its reference"
)
# One image, a batch that divides nothing evenly, and a usual one.
BATCHES = (1, 3, 8)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One line of the report."""

    what: str  # which two sides
    batch: int  # images per run
    images: int  # in all
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Report:
    """The answer of `verify_bundle`."""

    comparisons: tuple[Comparison, ...]
    torch_compared: bool
    engines: tuple[EngineLine, ...] = ()
    note: str = ""  # what could not be compared, and what was instead

    @property
    def same(self) -> bool:
        """Whether every comparison says the same answer, and every engine in float32."""
        return all(line.outcome.different == 0 for line in self.comparisons) and all(e.same for e in self.engines)

    def as_json(self) -> dict[str, Any]:
        """Plain values; gaps of scores are 0..1, of boxes in pixels."""
        lines = [
            {"comparison": line.what, "batch": line.batch, "images": line.images, **asdict(line.outcome)}
            for line in self.comparisons
        ]
        return {
            "same": self.same,
            "torch_compared": self.torch_compared,
            "comparisons": lines,
            "engines": [line.as_json() for line in self.engines],
            "note": self.note,
        }


def verify_bundle(
    bundle: Bundle,
    images: NDArray[np.uint8],
    checkpoint: Path | None = None,
    *,
    iou_net: Path | None = None,
    engines: str = NONE,
) -> Report:
    """Compares the bundle's graph with the reference and, given its checkpoint, with the network in torch.

    Args:
        bundle: its graph runs in ONNX Runtime.
        images: letterboxed, uint8 ``[I, H, W, 3]``.
        checkpoint: what the bundle was exported from; without it torch is not compared.
        iou_net: the checkpoint of its quality network, where it has one.
        engines: which of its engines are compared with the graph: all, none, a runtime, or runtime/precision.

    Raises:
        ExportError: the checkpoint is of another model, or the bundle is of a lower precision than any checkpoint.
        EngineError: it has no such engine.
    """
    reference = None if checkpoint is None else load_reference(checkpoint, iou_net, bundle.manifest)
    folders = chosen_engines(bundle, engines)
    graph, settings = open_graph(bundle.model_path), usual_settings(bundle.manifest)
    chosen = [settings[i % len(settings)] for i in range(len(images))]
    lines = []
    for batch in BATCHES:
        totals: dict[str, Outcome] = {}
        for rows in _batches(len(images), batch):
            outcomes = compare_batch(
                images[rows],
                chosen[rows],
                graph=graph,
                network=reference and reference.network,
                manifest=bundle.manifest,
                cuts=reference.cuts if reference else (),
                refiner=reference and reference.refiner,
            )
            totals = {what: totals.get(what, Outcome()) + outcome for what, outcome in outcomes.items()}
        lines += [Comparison(what, batch, len(images), outcome) for what, outcome in totals.items()]
    found = compare_engines(bundle, folders, images, chosen, graph=graph, batches=BATCHES)
    return Report(
        tuple(lines),
        torch_compared=reference is not None and reference.network is not None,
        engines=tuple(found),
        note="" if reference is None or reference.network is not None else FOREIGN,
    )


def _batches(count: int, size: int) -> Iterator[slice]:
    yield from (slice(start, start + size) for start in range(0, count, size))


def load_reference(checkpoint: Path, iou_net: Path | None, manifest: Manifest) -> "Reference":
    """The network of a bundle in PyTorch.

    Args:
        checkpoint: what the bundle was exported from.
        iou_net: the checkpoint of its quality network, where it has one.
        manifest: of the bundle.

    Raises:
        ExportError: the checkpoint is of another model, or the bundle is of a lower precision than any checkpoint.
    """
    from calibox_export.source import load_source

    if manifest.precision != "fp32":
        origin = "" if manifest.lowered_from is None else f", version {manifest.lowered_from.version}"
        raise ExportError(
            f"{manifest.name}/{manifest.version} is in {manifest.precision}, and PyTorch computes in float32: leave "
            f"out --checkpoint, or verify the bundle that it was made from{origin}"
        )
    if FOREIGN_DETECTOR in manifest.provenance.recipe:
        return _attached_reference(checkpoint, manifest)
    source = load_source(checkpoint)
    if (iou_net is not None) != (manifest.quality.method == IOU_NET):
        has = (
            "has a separate quality network: name its checkpoint" if iou_net is None else "has none: leave out what is"
        )
        raise ExportError(f"{manifest.name}/{manifest.version} {has} with --iou-net")
    if iou_net is not None:
        source = _with_quality_network(source, iou_net, manifest)
    expected = source.manifest(name=manifest.name, version=manifest.version)
    if (expected.input, expected.nms, expected.classes) != (manifest.input, manifest.nms, manifest.classes):
        raise ExportError(_another(checkpoint, manifest))
    return source.reference()


def _attached_reference(checkpoint: Path, manifest: Manifest) -> "Reference":
    """Of a foreign detector: its IoU-Net's steps of refinement alone."""
    from functools import partial

    from calibox_export.iou_net.reference import refined_boxes
    from calibox_export.source import Reference
    from calibox_training.iou_net.attached import load_attached

    model = load_attached(checkpoint)
    recipe = model.recipe
    if (recipe.input, recipe.nms, model.classes) != (manifest.input, manifest.nms, manifest.classes):
        raise ExportError(_another(checkpoint, manifest))
    refiner = partial(refined_boxes, model.features, model.predictor, recipe.refinement)
    return Reference(None, (), refiner if recipe.refinement.steps else None)


def _another(checkpoint: Path, manifest: Manifest) -> str:
    return (
        f"{checkpoint} is not the model of {manifest.name}/{manifest.version}: its input, classes or NMS attributes "
        "are others; name the checkpoint that the bundle was exported from"
    )


def _with_quality_network(source: "Source", iou_net: Path, manifest: Manifest) -> "Source":
    """The source with the predictor of a checkpoint, used as the manifest says."""
    from calibox_export.iou_net.part import BOXES, read_part
    from calibox_export.source import source_of
    from calibox_training.iou_net.spec import RefinementSpec

    refined = manifest.refinement
    spec = (
        RefinementSpec(steps=0) if refined is None else RefinementSpec(**refined.model_dump(exclude={"default_steps"}))
    )
    part = read_part(iou_net, source.trained, refinement=spec, boxes=manifest.quality.boxes or BOXES)
    return source_of(source.trained, part)


def letterboxed_images(folder: DataFolder, split: Split, size: InputSpec, count: int) -> NDArray[np.uint8]:
    """The first ``count`` images of a split by id, as the graph takes them: uint8 ``[count, H, W, 3]``.

    Raises:
        DatasetError: the split has no images, or one cannot be read.
    """
    records = sorted(folder.annotations(split)["images"], key=lambda image: int(image["id"]))[:count]
    if not records:
        raise DatasetError(f"{folder.source(split)} lists no images; name another split with --split")
    images = np.empty((len(records), size.height, size.width, 3), np.uint8)
    for slot, record in zip(images, records, strict=True):
        path = folder.images / record["file_name"]
        try:
            letterbox_into(slot, decode_image(path.read_bytes()), pad_value=size.pad_value)
        except (OSError, ImageError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
    return images

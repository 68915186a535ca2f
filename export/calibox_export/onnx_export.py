"""From a trained model to a bundle, published only after its graph agreed with the network."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from calibox_core.bundle import MODEL_FILE, new_bundle, next_version, write_manifest
from calibox_core.images import decode_image
from calibox_core.manifest import Manifest
from calibox_export.errors import ExportError
from calibox_export.graph import with_candidate_floor
from calibox_export.parity import MEANING, Graph, compare_batch, open_graph, usual_settings
from calibox_export.source import Reference, Source

# One image, and more than were traced: a batch that was baked into the graph fails at one of them.
PROBED_BATCHES = (1, 3)
# Up to this floor, images without objects leave candidates; that of IoU-guided ranking is five times as high.
USUAL_FLOOR = 0.01


def export_bundle(
    source: Source,
    repository: Path,
    *,
    name: str | None = None,
    version: str | None = None,
    example: Path | None = None,
) -> Path:
    """Writes ``repository/<name>/<version>`` whole or not at all.

    Args:
        source: what is exported.
        repository: folder of models.
        name: of the model; the recipe's when None.
        version: a whole number; one more than the highest that is there when None.
        example: a picture to put into the bundle, for those who try the model.

    Returns: the bundle's folder.

    Raises:
        ExportError: the graph does not give the network's numbers.
        ImageError: the example cannot be read.
        BundleError: the version is there already.
        InvalidParameterError: the name is no folder name of a model, or the version no whole number from 1.
    """
    chosen = name or source.trained.recipe.name
    manifest = source.manifest(name=chosen, version=version or next_version(repository / chosen))
    if example is not None:
        decode_image(example.read_bytes())
        manifest = manifest.model_copy(update={"example": f"example{example.suffix.lower()}"})
    destination = repository / manifest.name / manifest.version
    with new_bundle(destination) as scratch:
        write_graph(source, manifest, scratch / MODEL_FILE)
        check_parity(source.reference(), manifest, scratch / MODEL_FILE)
        if example is not None and manifest.example is not None:
            shutil.copyfile(example, scratch / manifest.example)
        write_manifest(scratch, manifest)
    return destination


def write_graph(source: Source, manifest: Manifest, path: Path) -> None:
    """Writes one file with the network, the operator and the weights inside.

    Raises:
        ExportError: torch cannot trace it, or the graph does not follow the contract.
    """
    metadata = {
        "name": manifest.name,
        "version": manifest.version,
        "classes": json.dumps(manifest.label_names),
        "fusion": json.dumps(manifest.fusion.exponents()),
    }
    onnx.save(source.graph(manifest, metadata), path)


def check_parity(reference: Reference, manifest: Manifest, path: Path) -> None:
    """Runs the written file and the network in torch on made-up images.

    These hold no objects: where the floor of candidates is high, the file is run with a floor of 0 as well.

    Raises:
        ExportError: they do not give the same answer; the text says where and by how much.
    """
    _check_graph(open_graph(path), reference, manifest)
    if manifest.nms.candidate_floor > USUAL_FLOOR:
        open_floor = manifest.nms.model_copy(update={"candidate_floor": 0.0})
        model = with_candidate_floor(onnx.load(path), open_floor, quality_per_class=manifest.quality.per_class)
        graph = open_graph(model.SerializeToString())
        _check_graph(graph, reference, manifest.model_copy(update={"nms": open_floor}))


def _check_graph(graph: Graph, reference: Reference, manifest: Manifest) -> None:
    settings = usual_settings(manifest)
    for batch in PROBED_BATCHES:
        images = probes(batch, height=manifest.input.height, width=manifest.input.width)
        outcomes = compare_batch(
            images,
            [settings[i % len(settings)] for i in range(batch)],
            graph=graph,
            network=reference.network,
            manifest=manifest,
            cuts=reference.cuts,
            refiner=reference.refiner,
        )
        for what, outcome in outcomes.items():
            if outcome.different:
                raise ExportError(
                    f"the graph differs from the network at batch {batch}, nothing was written: {MEANING[what]}: "
                    f"{outcome.different} rows differ, {outcome.compared} agree, largest gap of a score "
                    f"{outcome.score_gap:.2g}, of a box {outcome.box_gap:.2g} px"
                )


def probes(batch: int, *, height: int, width: int) -> NDArray[np.uint8]:
    """Images of soft blobs and edges, uint8 ``[batch, height, width, 3]``, the same on every call."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    # Waves of a few periods across the image: content at the scales of objects, unlike noise, in every colour.
    waves = rng.uniform(2, 20, (batch, 4, 3, 2)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (batch, 4, 3)).astype(np.float32)
    angle = np.einsum("bkcs,shw->bkchw", waves, np.stack([y, x])) * np.float32(2 * np.pi) + phase[..., None, None]
    level = np.sin(angle).sum(axis=1).clip(-2, 2) * 63 + 128  # 2..254
    return np.ascontiguousarray(level.transpose(0, 2, 3, 1).astype(np.uint8))

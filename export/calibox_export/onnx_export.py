"""From a trained model to a bundle, published only after its graph agreed with the network."""

import json
import shutil
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import nn

from calibox_core import __version__
from calibox_core.bundle import MODEL_FILE, new_bundle, write_manifest
from calibox_core.errors import InvalidParameterError
from calibox_core.images import decode_image
from calibox_core.manifest import Manifest, ModelName, ModelVersion, Provenance
from calibox_export.errors import ExportError
from calibox_export.graph import attach_calibrated_nms
from calibox_export.level_cut import LevelCut
from calibox_export.network import network_graph
from calibox_export.parity import MEANING, compare_batch, open_graph, usual_settings
from calibox_export.source import Source, run_network
from calibox_training.checkpoint import TrainedModel

# One image, and more than were traced: a batch that was baked into the graph fails at one of them.
PROBED_BATCHES = (1, 3)

_NAME, _VERSION = TypeAdapter(ModelName), TypeAdapter(ModelVersion)


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
    manifest = describe(source.trained, name=chosen, version=version or next_version(repository / chosen))
    if example is not None:
        decode_image(example.read_bytes())
        manifest = manifest.model_copy(update={"example": f"example{example.suffix.lower()}"})
    destination = repository / manifest.name / manifest.version
    with new_bundle(destination) as scratch:
        write_graph(source.network, manifest, scratch / MODEL_FILE)
        check_parity(source.uncut, manifest, scratch / MODEL_FILE, cuts=source.cuts)
        if example is not None and manifest.example is not None:
            shutil.copyfile(example, scratch / manifest.example)
        write_manifest(scratch, manifest)
    return destination


def next_version(model: Path) -> str:
    """One more than the highest version in a model's folder."""
    taken = (int(path.name) for path in model.glob("*") if path.name.isascii() and path.name.isdigit())
    return str(max(taken, default=0) + 1)


def describe(trained: TrainedModel, *, name: str, version: str) -> Manifest:
    """The manifest of a trained model, before its files are known.

    Raises:
        InvalidParameterError: the name is no folder name of a model, or the version no whole number from 1.
    """
    recipe = trained.recipe
    for what, value, kind in (("name", name, _NAME), ("version", version, _VERSION)):
        try:
            kind.validate_python(value)
        except ValidationError as error:
            raise InvalidParameterError(f"{what} {value!r} will not do: {error.errors()[0]['msg']}") from error
    return Manifest(
        name=name,
        version=version,
        description=recipe.description,
        classes=trained.classes,
        input=recipe.input,
        fusion=recipe.fusion,
        thresholds=recipe.thresholds,
        nms=recipe.nms,
        quality=recipe.quality,
        dataset=trained.dataset,
        provenance=Provenance(
            recipe_name=recipe.name,
            recipe=recipe.model_dump(mode="json"),
            commit=trained.commit,
            seed=recipe.seed,
            calibox_version=__version__,
            torch_version=torch.__version__,
            created=datetime.now(UTC).replace(microsecond=0),
        ),
        measured={"val": trained.metrics} if trained.metrics else {},
    )


def write_graph(network: nn.Module, manifest: Manifest, path: Path) -> None:
    """Traces ``network``, attaches the operator and writes one file with the weights inside.

    Raises:
        ExportError: torch cannot trace it, or the graph does not follow the contract.
    """
    size = manifest.input
    graph = attach_calibrated_nms(
        network_graph(network, height=size.height, width=size.width),
        manifest.nms,
        quality_per_class=manifest.quality.per_class,
        metadata={
            "name": manifest.name,
            "version": manifest.version,
            "classes": json.dumps(manifest.label_names),
            "fusion": json.dumps(manifest.fusion.exponents()),
        },
    )
    onnx.save(graph, path)


def check_parity(network: nn.Module, manifest: Manifest, path: Path, *, cuts: tuple[LevelCut, ...] = ()) -> None:
    """Runs the written file and the network, with all anchors of every level, on made-up images.

    Raises:
        ExportError: they do not give the same answer; the text says where and by how much.
    """
    graph, settings = open_graph(path), usual_settings(manifest)
    for batch in PROBED_BATCHES:
        images = probes(batch, height=manifest.input.height, width=manifest.input.width)
        outcomes = compare_batch(
            images,
            [settings[i % len(settings)] for i in range(batch)],
            graph=graph,
            network=partial(run_network, network),
            manifest=manifest,
            cuts=cuts,
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

"""A foreign detector and its IoU-Net as one bundle, published only after its graph agreed with both."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper
from torch import Tensor, nn

from calibox_core import __version__
from calibox_core.bundle import MODEL_FILE, new_bundle, next_version, write_manifest
from calibox_core.fusion import Fusion
from calibox_core.manifest import Manifest, Provenance, QualitySpec
from calibox_export.attach.detector_graph import ForeignDetector, detector_graph
from calibox_export.attach.foreign import open_session
from calibox_export.errors import ExportError
from calibox_export.graph import BATCH, IR_VERSION
from calibox_export.iou_net.bundle_graph import bundle_graph
from calibox_export.iou_net.part import METHOD, refinement_of
from calibox_export.iou_net.predictor_text import map_names
from calibox_export.iou_net.reference import refined_boxes
from calibox_export.network import network_graph
from calibox_export.parity import MEANING, compare_batch, open_graph, usual_settings
from calibox_training.iou_net.attached import AttachedModel
from calibox_training.iou_net.features import outputs_of_boxes
from calibox_training.iou_net.predictor import predicted_iou
from calibox_training.iou_net.quality_backbone import QualityBackbone

PREFIX = "features/"


class Choice(NamedTuple):
    """What a measurement settled for requests that name nothing."""

    fusion: Fusion
    refine: bool


class _Maps(nn.Module):
    """The backbone with the inputs of every network here."""

    def __init__(self, features: QualityBackbone) -> None:
        super().__init__()
        self.features = features

    def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, ...]:
        del fusion  # chooses anchors in other networks
        maps: tuple[Tensor, ...] = self.features(images)
        return maps


def attached_network(detector: onnx.ModelProto, model: AttachedModel) -> onnx.ModelProto:
    """The network that `bundle_graph` takes: the detector's boxes and p, and the maps of the backbone beside it.

    Args:
        detector: from `detector_graph`.
        model: whose input is the detector's.
    """
    size, names = model.recipe.input, map_names(model.features.levels)
    traced = network_graph(_Maps(model.features).eval(), height=size.height, width=size.width, outputs=names)
    features = compose.add_prefix(traced, PREFIX, rename_inputs=False, rename_outputs=False, rename_functions=False)
    domains = {e.domain: e.version for part in (detector, features) for e in part.opset_import}
    graph = helper.make_graph(
        [*detector.graph.node, *features.graph.node],
        "attached",
        [*detector.graph.input, helper.make_tensor_value_info("fusion", TensorProto.FLOAT, [BATCH, 3])],
        [*detector.graph.output, *features.graph.output],
        initializer=[*detector.graph.initializer, *features.graph.initializer],
    )
    return helper.make_model(
        graph,
        functions=[*detector.functions, *features.functions],
        opset_imports=[helper.make_opsetid(*entry) for entry in domains.items()],
        ir_version=IR_VERSION,
    )


def write_bundle(
    foreign: ForeignDetector,
    numbers: list[int],
    rows: int,
    model: AttachedModel,
    choice: Choice,
    repository: Path,
    *,
    measured: Mapping[str, dict[str, float | None]],
    probes: NDArray[np.uint8],
) -> Path:
    """Writes ``repository/<name>/<version>`` whole or not at all.

    Args:
        foreign: the detector.
        numbers: what it calls each class.
        rows: K, its rows that are passed on.
        model: the IoU-Net trained for it.
        choice: defaults of requests.
        repository: folder of models.
        measured: metrics for the manifest.
        probes: letterboxed pictures to compare on, uint8 ``[B, H, W, 3]``, three at least.

    Returns: the bundle's folder.

    Raises:
        ExportError: the graph does not answer as detector and IoU-Net do by themselves.
    """
    name = model.recipe.name
    manifest = _manifest(model, choice, version=next_version(repository / name), measured=measured)
    detector = detector_graph(foreign, numbers, rows)
    destination = repository / manifest.name / manifest.version
    with new_bundle(destination) as scratch:
        graph = bundle_graph(
            attached_network(detector, model),
            model.predictor,
            model.features.levels,
            attributes=manifest.nms,
            refinement=model.recipe.refinement,
            metadata={"name": manifest.name, "version": manifest.version},
        )
        onnx.save(graph, scratch / MODEL_FILE)
        check_parity(scratch / MODEL_FILE, detector, model, manifest, probes)
        write_manifest(scratch, manifest)
    return destination


def check_parity(
    path: Path, detector: onnx.ModelProto, model: AttachedModel, manifest: Manifest, probes: NDArray[np.uint8]
) -> None:
    """Runs the written file, and the detector's own graph with the IoU-Net in torch, on real pictures.

    Raises:
        ExportError: they do not give the same answer.
    """
    graph, settings = open_graph(path), usual_settings(manifest)
    network = partial(_apart, open_session(detector), model)
    refiner = partial(refined_boxes, model.features, model.predictor, model.recipe.refinement)
    for images in (probes[:1], probes):
        chosen = [settings[i % len(settings)] for i in range(len(images))]
        outcomes = compare_batch(images, chosen, graph=graph, network=network, manifest=manifest, refiner=refiner)
        for what, outcome in outcomes.items():
            if outcome.different:
                raise ExportError(
                    f"the bundle's graph differs at batch {len(images)}, nothing was written: {MEANING[what]}: "
                    f"{outcome.different} rows differ, {outcome.compared} agree, largest gap of a score "
                    f"{outcome.score_gap:.2g}, of a box {outcome.box_gap:.2g} px"
                )


@torch.no_grad()
def _apart(
    session: Any, model: AttachedModel, images: NDArray[np.uint8], fusion: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Boxes and p by the detector's graph, picture by picture, and q ``[B, K, C]`` by torch."""
    del fusion
    answers = [session.run(["boxes", "p"], {"images": image[None]}) for image in images]
    boxes_BK4, p_BKC = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    rows = torch.from_numpy(boxes_BK4).flatten(0, 1)
    image_R = torch.arange(len(images)).repeat_interleave(boxes_BK4.shape[1])
    maps, levels = model.features.maps(torch.from_numpy(images)), model.features.levels
    q_RC = predicted_iou(outputs_of_boxes(model.predictor, maps, rows, image_R, levels))
    return boxes_BK4, p_BKC, q_RC.numpy().reshape(p_BKC.shape)


def _manifest(
    model: AttachedModel, choice: Choice, *, version: str, measured: Mapping[str, dict[str, float | None]]
) -> Manifest:
    recipe = model.recipe
    refinement = refinement_of(recipe.refinement, recipe.refinement.steps if choice.refine else 0)
    return Manifest(
        name=recipe.name,
        version=version,
        description=recipe.description,
        classes=model.classes,
        input=recipe.input,
        fusion=choice.fusion,
        thresholds=recipe.thresholds,
        nms=recipe.nms,
        quality=QualitySpec(method=METHOD, per_class=True),
        can_refine=refinement is not None,
        refinement=refinement,
        dataset=model.dataset,
        provenance=Provenance(
            recipe_name=recipe.name,
            recipe={**recipe.model_dump(mode="json"), "detector": model.detector},
            commit=model.commit,
            seed=recipe.seed,
            calibox_version=__version__,
            torch_version=torch.__version__,
            created=datetime.now(UTC).replace(microsecond=0),
        ),
        measured=dict(measured),
    )

"""The quality network of a bundle: what `calibox export --iou-net` adds to a detector.

Letters: B images, A anchors, K candidates, N detections, C classes, F features.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import Manifest, QualitySpec, Refinement
from calibox_core.nms import OutScore
from calibox_export.errors import ExportError
from calibox_export.iou_net.bundle_graph import bundle_graph
from calibox_export.iou_net.predictor_text import map_names
from calibox_export.network import network_graph
from calibox_training.checkpoint import TrainedModel
from calibox_training.inference import CandidateGraph
from calibox_training.iou_net.features import DetectorFeatures
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.predictor_checkpoint import SavedPredictor, read_predictor
from calibox_training.iou_net.spec import RefinementSpec
from calibox_training.iou_net.systems import CANDIDATE_FLOOR
from calibox_training.recipe import parse_recipe

# Candidates are pooled one by one, which is what costs. At 256 px a detector rarely has more with p above the floor.
BOXES = 300
METHOD = "iou_net"
BY_CLASS_SCORE = Fusion(name=FusionName.CLASSIFICATION).exponents()


@dataclass(frozen=True, slots=True, kw_only=True)
class IouNetPart:
    """A standalone predictor on a detector's features, and how it is used."""

    predictor: IouPredictor
    facts: dict[str, Any]  # of its checkpoint
    features: DetectorFeatures
    refinement: RefinementSpec
    default_steps: int
    boxes: int  # K at most


class CandidatesAndMaps(nn.Module):
    """The best K candidates of an image by the score of their best class, and the maps to pool them from. Exportable.

    Args:
        graph: of a detector with an FPN; every level passes K on, so that the best K of all levels are among them.
        levels: how many of the finest maps go along.
        boxes: K at most.
    """

    by_class_score: Tensor

    def __init__(self, graph: CandidateGraph, *, levels: int, boxes: int) -> None:
        super().__init__()
        self.all_levels = graph
        self.levels = levels
        self.boxes = boxes
        self.register_buffer("by_class_score", torch.tensor(BY_CLASS_SCORE), persistent=False)

    def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, ...]:
        """Boxes float32 ``[B, K, 4]``, p ``[B, K, C]``, and maps ``[B, F, H_l, W_l]``, finest first."""
        detector = self.all_levels.detector
        assert detector.fpn is not None  # `DetectorFeatures` has seen it
        maps = list(detector.fpn(detector.backbone(detector.normalise(images))).values())
        exponents = self.by_class_score.expand(fusion.shape[0], -1)
        boxes_BA4, p_BAC, _ = self.all_levels.candidates(detector.head(maps), exponents)
        if boxes_BA4.shape[1] > self.boxes:
            best_BK1 = p_BAC.amax(dim=2).topk(self.boxes, dim=1).indices[..., None]
            boxes_BA4 = boxes_BA4.gather(1, best_BK1.expand(-1, -1, 4))
            p_BAC = p_BAC.gather(1, best_BK1.expand(-1, -1, p_BAC.shape[2]))
        return boxes_BA4, p_BAC, *maps[: self.levels]


def read_part(
    path: Path, trained: TrainedModel, *, refinement: RefinementSpec, default_steps: int = 0, boxes: int = BOXES
) -> IouNetPart:
    """The predictor of a checkpoint of `calibox train-iou-net`, for the detector that it was trained on.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
        ExportError: it was trained on another detector, or more steps are the default than there are.
        RunError: the detector has no FPN.
    """
    if default_steps > refinement.steps:
        raise ExportError(
            f"{default_steps} steps of refinement cannot be the default of a bundle with {refinement.steps}; raise "
            "--refine-steps or lower --refine-default"
        )
    saved = read_predictor(path)
    other = _differences(saved, trained)
    if other:
        raise ExportError(
            f"{path} was trained on the features of another detector: its {' and '.join(other)} differ; name the "
            "checkpoint of the detector that it was trained on, or train a predictor for this one"
        )
    return IouNetPart(
        predictor=saved.predictor,
        facts=saved.facts,
        features=DetectorFeatures(trained.detector),
        refinement=refinement,
        default_steps=default_steps,
        boxes=boxes,
    )


def _differences(saved: SavedPredictor, trained: TrainedModel) -> list[str]:
    """What a predictor's checkpoint says otherwise than the detector's."""
    detector = saved.facts["detector"]
    recipe = parse_recipe(detector["recipe"], source="the recipe in the predictor's checkpoint")
    classes = [c.model_dump(mode="json") for c in trained.classes]
    same = {
        "recipe": recipe == trained.recipe,
        "commit": detector["commit"] == trained.commit,
        "classes": saved.facts["classes"] == classes,
    }
    return [what for what, holds in same.items() if not holds]


def with_iou_net(manifest: Manifest, part: IouNetPart) -> Manifest:
    """The detector's manifest, changed to that of the bundle with the predictor.

    What was measured of the detector under its own ranking does not hold for this one, and is left out.
    """
    refinement, facts = refinement_of(part.refinement, part.default_steps), part.facts
    nms = {"out_score": OutScore.CLASSIFICATION_CLUSTERED, "candidate_floor": CANDIDATE_FLOOR}
    trained = {name: facts[name] for name in ("predictor", "commit", "metrics")}
    changes: dict[str, Any] = {
        "fusion": Fusion(name=FusionName.LOCALIZATION),
        "nms": manifest.nms.model_copy(update=nms),
        "quality": QualitySpec(method=METHOD, per_class=True, boxes=part.boxes),
        "can_refine": refinement is not None,
        "refinement": refinement,
        "provenance": manifest.provenance.model_copy(update={"iou_net": trained}),
        "measured": {},
    }
    return manifest.model_copy(update=changes)


def refinement_of(spec: RefinementSpec, default_steps: int) -> Refinement | None:
    """What the manifest says of a graph that refines so; None where it takes no step."""
    return Refinement(**spec.model_dump(), default_steps=default_steps) if spec.steps else None


def iou_net_graph(part: IouNetPart, manifest: Manifest, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The graph of the bundle that `with_iou_net` describes.

    Raises:
        ExportError: torch cannot trace the detector.
    """
    height, width = manifest.input.height, manifest.input.width
    levels = part.features.levels
    candidates = CandidateGraph(part.features.detector, height=height, width=width, per_level_top_k=part.boxes)
    network = CandidatesAndMaps(candidates, levels=len(levels.scales), boxes=part.boxes).eval()
    outputs = ("boxes", "p", *map_names(levels))
    return bundle_graph(
        network_graph(network, height=height, width=width, outputs=outputs),
        part.predictor,
        levels,
        attributes=manifest.nms,
        refinement=part.refinement,
        metadata=metadata,
    )

"""Inputs and outputs that every bundle's graph has, whatever the network inside. Letters: B images, N rows, K rows."""

from collections.abc import Mapping

from calibox_core.manifest import Manifest
from calibox_core.operator_names import CANDIDATE_OUTPUTS

# name -> (element type as ONNX Runtime writes it, shape with None where it is free)
Signature = Mapping[str, tuple[str, tuple[int | None, ...]]]


def graph_contract(manifest: Manifest) -> tuple[Signature, Signature]:
    """Inputs and outputs that a bundle's graph has; the batch is free."""
    rows = manifest.nms.max_detections
    inputs: Signature = {
        "images": ("tensor(uint8)", (None, manifest.input.height, manifest.input.width, 3)),
        "fusion": ("tensor(float)", (None, 3)),
        "score_threshold": ("tensor(float)", (None,)),
        "iou_threshold": ("tensor(float)", (None,)),
        "refine_steps": ("tensor(int32)", (None,)),
    }
    outputs: Signature = {
        "num_detections": ("tensor(int32)", (None,)),
        "boxes": ("tensor(float)", (None, rows, 4)),
        "labels": ("tensor(int32)", (None, rows)),
        "classification_scores": ("tensor(float)", (None, rows)),
        "localization_scores": ("tensor(float)", (None, rows)),
        "scores": ("tensor(float)", (None, rows)),
    }
    return inputs, outputs


def candidate_outputs(manifest: Manifest) -> Signature:
    """Further outputs of a graph that tells what it had before suppression, K rows of an image."""
    rows = manifest.nms.pre_nms_top_k
    shapes: Mapping[str, tuple[int | None, ...]] = {"candidate_boxes": (None, rows, 4)}
    kinds = {"candidate_labels": "tensor(int32)"}
    return {name: (kinds.get(name, "tensor(float)"), shapes.get(name, (None, rows))) for name in CANDIDATE_OUTPUTS}

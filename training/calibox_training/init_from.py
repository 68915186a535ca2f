"""Weights to start from: a RetinaNet of torchvision, or a checkpoint of an earlier training stage."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calibox_core.manifest import ClassInfo
from calibox_training.checkpoint import DETECTOR_PREFIX, METADATA_KEY, CheckpointError
from calibox_training.models.detector import Detector

# Where torchvision's modules are in ours.
_PLACES = (
    (re.compile(r"^backbone\.body\."), "backbone."),
    (re.compile(r"^backbone\.fpn\."), "fpn."),
    (re.compile(r"^head\.classification_head\.cls_logits\."), "head.class_conv."),
    (re.compile(r"^head\.regression_head\.bbox_reg\."), "head.box_conv."),
)
# A layer of a tower: `conv.0.weight` in the oldest files, every second number; else `conv.0.0.weight`, with the
# normalisation as `conv.0.1.weight`.
_TOWER = re.compile(r"^head\.(classification|regression)_head\.conv\.(\d+)\.(?:(\d)\.)?(weight|bias)$")
_TOWERS = {"classification": "class_tower", "regression": "box_tower"}


def initialise_from(detector: Detector, path: Path, classes: Sequence[ClassInfo]) -> tuple[str, ...]:
    """Fills a detector from a file, in place.

    Args:
        detector: as its recipe built it.
        path: a state dict of torchvision's RetinaNet, or a checkpoint of `calibox train`.
        classes: the data set's; they tell which rows of torchvision's classification layer to take.

    Returns: names of parameters and buffers that the file does not have and that stay as they were.

    Raises:
        CheckpointError: the file cannot be read, or what it holds does not fit the recipe's model.
    """
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its readers raise: pickle, zip, OS and runtime errors
        raise CheckpointError(f"{path} cannot be read as weights to start from: {error}") from error
    state = _detector_state(saved, path, detector, classes)
    own = detector.state_dict()
    wrong = [name for name, value in state.items() if name not in own or own[name].shape != value.shape]
    if wrong:
        raise CheckpointError(
            f"{path} does not fit the recipe's model: {', '.join(_difference(name, state, own) for name in wrong[:3])}"
            f"{' and more' if len(wrong) > 3 else ''}"
        )
    detector.load_state_dict(state, strict=False)
    # torchvision's frozen batch norm counts no batches; the count has no part in what is computed.
    return tuple(name for name in own if name not in state and not name.endswith("num_batches_tracked"))


def _detector_state(saved: Any, path: Path, detector: Detector, classes: Sequence[ClassInfo]) -> dict[str, Tensor]:
    if isinstance(saved, dict) and METADATA_KEY in saved:
        named = saved["state_dict"].items()
        return {key.removeprefix(DETECTOR_PREFIX): value for key, value in named if key.startswith(DETECTOR_PREFIX)}
    state = saved.get("model", saved) if isinstance(saved, dict) else saved  # torchvision's own training adds `model`
    if not isinstance(state, dict) or "head.classification_head.cls_logits.weight" not in state:
        raise CheckpointError(
            f"{path} holds neither a checkpoint of `calibox train` nor the state dict of torchvision's RetinaNet"
        )
    found = {_our_name(name, step=_tower_step(detector)): value for name, value in state.items()}
    anchors = detector.spec.anchors.per_location
    for name in ("head.class_conv.weight", "head.class_conv.bias"):
        found[name] = _class_rows(found[name], anchors, classes, path)
    return found


def _our_name(name: str, *, step: int) -> str:
    tower = _TOWER.match(name)
    if tower:
        kind, layer, part, value = tower.groups()
        place = int(layer) // 2 * step if part is None else int(layer) * step + int(part)
        return f"head.{_TOWERS[kind]}.{place}.{value}"
    for pattern, replacement in _PLACES:
        name = pattern.sub(replacement, name)
    return name


def _tower_step(detector: Detector) -> int:
    """Modules of a tower's layer: convolution, normalisation if any, activation."""
    return 2 if detector.spec.norm == "none" else 3


def _class_rows(layer: Tensor, anchors: int, classes: Sequence[ClassInfo], path: Path) -> Tensor:
    """The rows of the data set's classes from a layer that has some for each of torchvision's labels.

    torchvision's label 0 is the background. Labels are 1, 2, ... where there is one more than classes, else category
    ids, as COCO's 91 with their gaps.
    """
    labels = layer.shape[0] // anchors
    ids = [c.category_id for c in classes]
    if labels == len(ids) + 1:
        rows = list(range(1, labels))
    elif ids and min(ids) > 0 and max(ids) < labels:
        rows = ids
    else:
        raise CheckpointError(
            f"{path} tells {labels} labels apart, the background included; the data set has {len(ids)} classes "
            f"with category ids {min(ids, default=0)} to {max(ids, default=0)}, and neither fits"
        )
    by_label = layer.reshape(anchors, labels, *layer.shape[1:])
    return by_label[:, rows].reshape(anchors * len(rows), *layer.shape[1:])


def _difference(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if name not in own:
        return f"the model has no {name}"
    return f"{name} is {list(state[name].shape)} and should be {list(own[name].shape)}"

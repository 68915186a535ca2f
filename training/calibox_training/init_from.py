"""Weights to start from: a RetinaNet or SSD of torchvision, or a checkpoint of an earlier training stage."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calibox_core.manifest import ClassInfo
from calibox_training.checkpoint import METADATA_KEY, CheckpointError, detector_weights
from calibox_training.models.detector import Detector
from calibox_training.torchvision_names import translate

Translation = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


def initialise_from(detector: Detector, path: Path, classes: Sequence[ClassInfo]) -> tuple[str, ...]:
    """Fills a detector from a file, in place.

    Args:
        detector: as its recipe built it.
        path: a state dict of torchvision's RetinaNet or SSD, or a checkpoint of `calibox train`.
        classes: the data set's; they tell which rows of torchvision's classification layers to take.

    Returns: names of parameters and buffers that the file does not have and that stay as they were.

    Raises:
        CheckpointError: the file cannot be read, or what it holds does not fit the recipe's model.
    """
    return fill_from(detector, path, lambda state: translate(state, detector.spec, classes))


def fill_from(detector: nn.Module, path: Path, in_our_names: Translation) -> tuple[str, ...]:
    """`initialise_from` for a detector of any kind.

    Args:
        detector: filled in place.
        path: a state dict of torchvision's, or a checkpoint of `calibox train`.
        in_our_names: what the detector takes of torchvision's state dict; ValueError where it is of something else.

    Raises:
        CheckpointError: see `initialise_from`.
    """
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its readers raise: pickle, zip, OS and runtime errors
        raise CheckpointError(f"{path} cannot be read as weights to start from: {error}") from error
    state = _detector_state(saved, path, in_our_names)
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


def _detector_state(saved: Any, path: Path, in_our_names: Translation) -> dict[str, Tensor]:
    if isinstance(saved, dict) and METADATA_KEY in saved:
        return detector_weights(saved)
    state = saved.get("model", saved) if isinstance(saved, dict) else saved  # torchvision's own training adds `model`
    try:
        return in_our_names(state if isinstance(state, dict) else {})
    except ValueError as error:
        raise CheckpointError(f"{path} {error}") from error


def _difference(name: str, state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if name not in own:
        return f"the model has no {name}"
    return f"{name} is {list(state[name].shape)} and should be {list(own[name].shape)}"

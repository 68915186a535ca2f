"""Checkpoints of a standalone IoU-Net: weights and plain values. No code is unpickled."""

from pathlib import Path
from typing import Any

import torch

from calibox_training.checkpoint import CheckpointError, TrainedModel, current_commit
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.spec import PredictorSpec

IOU_NET_KEY = "iou_net"  # beside the weights; tells these checkpoints from those of detectors


def contents(model: TrainedModel, predictor: IouPredictor, metrics: dict[str, float | None]) -> dict[str, Any]:
    """What a checkpoint holds: the weights, and which detector's features they read."""
    return {
        "state_dict": {name: value.cpu() for name, value in predictor.state_dict().items()},
        IOU_NET_KEY: {
            "predictor": predictor.spec.model_dump(mode="json"),
            "features": model.recipe.model.fpn_channels,
            "classes": [c.model_dump(mode="json") for c in model.classes],
            "detector": {"recipe": model.recipe.model_dump(mode="json"), "commit": model.commit},
            "commit": current_commit(),
            "metrics": metrics,
        },
    }


def load_predictor(path: Path) -> IouPredictor:
    """A predictor that `train_standalone` wrote, in eval mode.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its readers raise: pickle, zip, OS and runtime errors
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(saved, dict) or IOU_NET_KEY not in saved:
        raise CheckpointError(f"{path} holds no IoU-Net; a detector's checkpoint is read by `load_checkpoint`")
    facts = saved[IOU_NET_KEY]
    spec = PredictorSpec.model_validate(facts["predictor"])
    predictor = IouPredictor(spec, features=facts["features"], classes=len(facts["classes"]))
    predictor.load_state_dict(saved["state_dict"])
    return predictor.eval()

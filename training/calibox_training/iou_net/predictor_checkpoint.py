"""Checkpoints of a standalone IoU-Net: weights and plain values. No code is unpickled."""

from pathlib import Path
from typing import Any

from calibox_training.checkpoint import TrainedModel, current_commit, read_saved
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
    saved = read_saved(path, IOU_NET_KEY, otherwise="holds no IoU-Net; `load_checkpoint` reads a detector's")
    facts = saved[IOU_NET_KEY]
    spec = PredictorSpec.model_validate(facts["predictor"])
    predictor = IouPredictor(spec, features=facts["features"], classes=len(facts["classes"]))
    predictor.load_state_dict(saved["state_dict"])
    return predictor.eval()

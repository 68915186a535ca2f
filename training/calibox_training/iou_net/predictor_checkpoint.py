"""Checkpoints of a standalone IoU-Net: weights and plain values. No code is unpickled."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibox_core.manifest import ClassInfo
from calibox_training.checkpoint import current_commit, read_saved
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.spec import PredictorSpec
from calibox_training.recipe import RunRecipe

IOU_NET_KEY = "iou_net"  # beside the weights; tells these checkpoints from those of detectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The detector whose features a predictor reads."""

    features: int  # channels of its maps
    classes: tuple[ClassInfo, ...]
    recipe: RunRecipe  # whose data, input and augmentation the predictor is trained by
    commit: str


def contents(reads: Reads, predictor: IouPredictor, metrics: dict[str, float | None]) -> dict[str, Any]:
    """What a checkpoint holds: the weights, and which detector's features they read."""
    return {
        "state_dict": {name: value.cpu() for name, value in predictor.state_dict().items()},
        IOU_NET_KEY: {
            "predictor": predictor.spec.model_dump(mode="json"),
            "features": reads.features,
            "classes": [c.model_dump(mode="json") for c in reads.classes],
            "detector": {"recipe": reads.recipe.model_dump(mode="json"), "commit": reads.commit},
            "commit": current_commit(),
            "metrics": metrics,
        },
    }


@dataclass(frozen=True, slots=True)
class SavedPredictor:
    """A predictor in eval mode and what its checkpoint says of it; see `contents`."""

    predictor: IouPredictor
    facts: dict[str, Any]


def load_predictor(path: Path) -> IouPredictor:
    """A predictor that `train_standalone` wrote, in eval mode.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    return read_predictor(path).predictor


def read_predictor(path: Path) -> SavedPredictor:
    """`load_predictor`, with the rest of the checkpoint.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    saved = read_saved(path, IOU_NET_KEY, otherwise="holds no IoU-Net; `load_checkpoint` reads a detector's")
    facts = saved[IOU_NET_KEY]
    spec = PredictorSpec.model_validate(facts["predictor"])
    predictor = IouPredictor(spec, features=facts["features"], classes=len(facts["classes"]))
    predictor.load_state_dict(saved["state_dict"])
    return SavedPredictor(predictor.eval(), facts)

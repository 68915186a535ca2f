"""A small trained detector with its quality network, made by the commands' own functions."""

from pathlib import Path

import torch

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import DETECTOR_PREFIX, load_checkpoint
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.spec import JitterSpec, PredictorSpec
from calibox_training.iou_net.standalone import StandaloneSettings, train_standalone
from calibox_training.train import RunSettings, train
from calibox_training.training_spec import Schedule
from tests.support.recipes import tiny_recipe

# A detector that saw eight images gives everything a class score of 0.01, and IoU-Net ranks what has more than 0.05.
SURER = 2.5
# A predictor starts out flat and hardly leaves that in three epochs.
HILLS = 1000


def hilly_predictor(*, width: int, pooled: int, features: int, classes: int, seed: int = 0) -> IouPredictor:
    """Random weights whose outputs differ from box to box: the paper's deviation of 0.001 leaves no hills."""
    torch.manual_seed(seed)
    spec = PredictorSpec(width=width, pooled=pooled, initialisation="he")
    predictor = IouPredictor(spec, features=features, classes=classes).eval()
    with torch.no_grad():
        predictor.output.weight.mul_(200)
    return predictor


def trained_detector(folder: CocoFolder, output: Path, *, epochs: int = 4) -> Path:
    """The checkpoint of a tiny detector whose class scores were shifted upwards."""
    settings = RunSettings(output=output, accelerator="cpu", workers=0, progress=False)
    recipe = tiny_recipe(schedule__epochs=epochs, schedule__validate_every=epochs)
    checkpoint = train(recipe, folder, settings).checkpoint
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"][f"{DETECTOR_PREFIX}head.class_conv.bias"] += SURER
    torch.save(saved, checkpoint)
    return checkpoint


def trained_predictor(checkpoint: Path, folder: CocoFolder, output: Path) -> Path:
    """The checkpoint of a predictor on that detector's features, whose outputs differ from box to box."""
    settings = StandaloneSettings(
        output=output,
        schedule=Schedule(optimizer="adamw", learning_rate=0.002, epochs=3, batch_size=4),
        predictor=PredictorSpec(width=32, pooled=5, initialisation="he"),
        jitter=JitterSpec(per_image=64),
        workers=0,
        accelerator="cpu",
    )
    trained = train_standalone(load_checkpoint(checkpoint), folder, settings).checkpoint
    saved = torch.load(trained, weights_only=True)
    saved["state_dict"]["output.weight"] *= HILLS
    torch.save(saved, trained)
    return trained

"""A standalone IoU-Net: the predictor trained on the frozen features of a detector that is there already.

Source: IoU-Net, arXiv 1807.11590, section 3.1 and fig. 5. One process, float32.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from calibox_core.dataset import DataFolder
from calibox_training.checkpoint import TrainedModel
from calibox_training.data.module import CocoDataModule
from calibox_training.iou_net.features import DetectorFeatures, FeatureSource
from calibox_training.iou_net.objective import training_loss, validate
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.predictor_checkpoint import Reads, contents
from calibox_training.iou_net.spec import JitterSpec, PredictorSpec
from calibox_training.iou_net.training_loop import Learner, Metrics, fit, require_plain
from calibox_training.machine import RunError, device_type
from calibox_training.run_checkpoints import LAST_CHECKPOINT, AtomicCheckpointIO
from calibox_training.train import METRICS, write_json
from calibox_training.training_spec import Schedule

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandaloneSettings:
    """One training of the predictor."""

    output: Path
    schedule: Schedule
    jitter: JitterSpec = field(default_factory=JitterSpec)
    predictor: PredictorSpec = field(default_factory=PredictorSpec)
    seed: int = 0
    accelerator: str = "auto"
    workers: int = 2


@dataclass(frozen=True, slots=True)
class StandaloneResult:
    """Where the training ended."""

    checkpoint: Path
    metrics: dict[str, float | None]


def train_standalone(model: TrainedModel, folder: DataFolder, settings: StandaloneSettings) -> StandaloneResult:
    """`train_on_features` of a single-stage detector, which is frozen in place.

    Raises:
        RunError: the detector has no FPN; and as there.
    """
    device = device_type(settings.accelerator)
    features = DetectorFeatures(model.detector.eval().requires_grad_(False).to(device))
    reads = Reads(features=features.channels, classes=model.classes, recipe=model.recipe, commit=model.commit)
    return train_on_features(features, reads, folder, settings)


def train_on_features(
    features: FeatureSource, reads: Reads, folder: DataFolder, settings: StandaloneSettings
) -> StandaloneResult:
    """Trains a predictor and writes ``<output>/checkpoints/last.ckpt`` after every epoch, and ``metrics.json``.

    Images are augmented as the detector's recipe says. The metrics are of jittered
    boxes of the validation split: ``iou_error``, the mean distance of predicted and true IoU, ``pearson_localization``,
    their correlation, and ``pearson_n``, how many boxes entered it; and ``train_loss``, the mean of the last epoch.

    Args:
        features: on the accelerator's device, without a gradient.
        reads: the detector that they are of.
        folder: images and objects.
        settings: of the training.

    Raises:
        RunError: the output folder holds another run, the schedule asks for what this training does not do, or this
            machine lacks the accelerator.
        DatasetError: see `CocoDataModule.check`.
    """
    last = settings.output / "checkpoints" / LAST_CHECKPOINT
    if last.exists():
        raise RunError(f"{settings.output} holds a run already; choose another output folder")
    require_plain(settings.schedule)
    device = torch.device(device_type(settings.accelerator))
    torch.manual_seed(settings.seed)
    recipe = reads.recipe.model_copy(update={"schedule": settings.schedule, "seed": settings.seed})
    data = CocoDataModule(recipe, folder, workers=settings.workers)
    data.check()
    predictor = IouPredictor(settings.predictor, features=features.channels, classes=len(reads.classes))
    predictor.to(device)

    def after_epoch(epoch: int, metrics: Metrics) -> None:
        log.info("epoch %d: %s", epoch, metrics)
        AtomicCheckpointIO().save_checkpoint(contents(reads, predictor, metrics), last)

    learner = Learner(
        parameters=list(predictor.parameters()),
        loss=lambda batch, generator: training_loss(features, predictor, batch, settings.jitter, generator),
        validate=lambda: validate(features, predictor, data, settings.jitter, settings.seed),
        after_epoch=after_epoch,
    )
    metrics = fit(learner, data, settings.schedule, seed=settings.seed)
    write_json(settings.output / METRICS, metrics)
    return StandaloneResult(last, metrics)

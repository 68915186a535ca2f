"""A standalone IoU-Net: the predictor trained on the frozen features of a detector that is there already.

Source: IoU-Net, arXiv 1807.11590, section 3.1 and fig. 5. One process, float32.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from calibox_core.dataset import DataFolder
from calibox_training.checkpoint import TrainedModel
from calibox_training.data.module import CocoDataModule
from calibox_training.iou_net.features import DetectorFeatures, FeatureSource
from calibox_training.iou_net.objective import batch_generator, on_device, training_loss, validate
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.predictor_checkpoint import contents
from calibox_training.iou_net.spec import JitterSpec, PredictorSpec
from calibox_training.machine import RunError, device_type
from calibox_training.run_checkpoints import LAST_CHECKPOINT, AtomicCheckpointIO
from calibox_training.schedule import build_schedulers
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
    """Trains a predictor and writes ``<output>/checkpoints/last.ckpt`` after every epoch, and ``metrics.json``.

    Images are augmented as the detector's recipe says; the detector is frozen in place. The metrics are of jittered
    boxes of the validation split: ``iou_error``, the mean distance of predicted and true IoU, ``pearson_localization``,
    their correlation, and ``pearson_n``, how many boxes entered it; and ``train_loss``, the mean of the last epoch.

    Raises:
        RunError: the output folder holds another run, the detector has no FPN, the schedule asks for what this
            training does not do, or this machine lacks the accelerator.
        DatasetError: see `CocoDataModule.check`.
    """
    last = settings.output / "checkpoints" / LAST_CHECKPOINT
    if last.exists():
        raise RunError(f"{settings.output} holds a run already; choose another output folder")
    _require_plain(settings.schedule)
    device = torch.device(device_type(settings.accelerator))
    torch.manual_seed(settings.seed)
    recipe = model.recipe.model_copy(update={"schedule": settings.schedule, "seed": settings.seed})
    data = CocoDataModule(recipe, folder, workers=settings.workers)
    data.check()
    features = DetectorFeatures(model.detector.eval().requires_grad_(False).to(device))
    predictor = IouPredictor(settings.predictor, features=features.channels, classes=len(model.classes))
    optimizer = _optimizer(predictor.to(device), settings.schedule)
    scheduler, plateau = build_schedulers(optimizer, settings.schedule, steps_per_epoch=len(data.batches))
    metrics: dict[str, float | None] = {}
    for epoch in range(settings.schedule.epochs):
        loss = _epoch(features, predictor, data, settings, optimizer, scheduler)
        if plateau is not None:
            plateau.step(loss)
        metrics = {"train_loss": loss, **validate(features, predictor, data, settings.jitter, settings.seed)}
        log.info("epoch %d: %s", epoch + 1, metrics)
        AtomicCheckpointIO().save_checkpoint(contents(model, predictor, metrics), last)
    write_json(settings.output / METRICS, metrics)
    return StandaloneResult(last, metrics)


def _epoch(
    features: FeatureSource,
    predictor: IouPredictor,
    data: CocoDataModule,
    settings: StandaloneSettings,
    optimizer: Optimizer,
    scheduler: LRScheduler,
) -> float:
    """One pass over the training split; the mean loss."""
    device, losses = next(predictor.parameters()).device, []
    for batch in data.train_loader:
        generator = batch_generator(settings.seed, data.train_loader.batches_given)
        loss = training_loss(features, predictor, on_device(batch, device), settings.jitter, generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if settings.schedule.clip_norm:
            torch.nn.utils.clip_grad_norm_(predictor.parameters(), settings.schedule.clip_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def _require_plain(schedule: Schedule) -> None:
    """Raises RunError for values of a schedule that this training has no use for, rather than pass over them."""
    plain = Schedule(learning_rate=schedule.learning_rate, epochs=schedule.epochs, batch_size=schedule.batch_size)
    unused = ("accumulate", "ema_decay", "precision", "freeze", "checkpoint_every")
    asked = [name for name in unused if getattr(schedule, name) != getattr(plain, name)]
    if asked:
        raise RunError(f"a standalone IoU-Net has no use for schedule.{', schedule.'.join(asked)}: leave it out")


def _optimizer(predictor: IouPredictor, schedule: Schedule) -> Optimizer:
    if schedule.optimizer == "adamw":
        return AdamW(predictor.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    return SGD(
        predictor.parameters(),
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
    )

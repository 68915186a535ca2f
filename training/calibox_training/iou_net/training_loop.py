"""What every training of an IoU predictor beside a finished detector shares. One process, float32."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from calibox_training.data.coco import Batch
from calibox_training.data.module import CocoDataModule
from calibox_training.iou_net.objective import batch_generator, on_device
from calibox_training.machine import RunError
from calibox_training.schedule import build_schedulers
from calibox_training.training_spec import Schedule

Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """What is trained, on one device."""

    parameters: list[nn.Parameter]
    loss: Callable[[Batch, torch.Generator], Tensor]  # of a batch on the device
    validate: Callable[[], Metrics]  # called after every epoch
    after_epoch: Callable[[int, Metrics], None]  # with the epoch's number, from 1


def fit(learner: Learner, data: CocoDataModule, schedule: Schedule, *, seed: int) -> Metrics:
    """All epochs; the metrics of the last one, with ``train_loss``, its mean."""
    optimizer = _optimizer(learner.parameters, schedule)
    scheduler, plateau = build_schedulers(optimizer, schedule, steps_per_epoch=len(data.batches))
    metrics: Metrics = {}
    for epoch in range(schedule.epochs):
        loss = _epoch(learner, data, optimizer, scheduler, clip_norm=schedule.clip_norm, seed=seed)
        if plateau is not None:
            plateau.step(loss)
        metrics = {"train_loss": loss, **learner.validate()}
        learner.after_epoch(epoch + 1, metrics)
    return metrics


def _epoch(
    learner: Learner,
    data: CocoDataModule,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    *,
    clip_norm: float,
    seed: int,
) -> float:
    """One pass over the training split; the mean loss."""
    device, losses = learner.parameters[0].device, []
    for batch in data.train_loader:
        generator = batch_generator(seed, data.train_loader.batches_given)
        loss = learner.loss(on_device(batch, device), generator)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        if clip_norm:
            nn.utils.clip_grad_norm_(learner.parameters, clip_norm)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def require_plain(schedule: Schedule) -> None:
    """Raises RunError for values of a schedule that these trainings have no use for, rather than pass over them."""
    plain = Schedule(learning_rate=schedule.learning_rate, epochs=schedule.epochs, batch_size=schedule.batch_size)
    unused = ("accumulate", "ema_decay", "precision", "freeze", "checkpoint_every")
    asked = [name for name in unused if getattr(schedule, name) != getattr(plain, name)]
    if asked:
        raise RunError(f"a standalone IoU-Net has no use for schedule.{', schedule.'.join(asked)}: leave it out")


def _optimizer(parameters: Iterable[nn.Parameter], schedule: Schedule) -> Optimizer:
    if schedule.optimizer == "adamw":
        return AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    return SGD(parameters, lr=schedule.learning_rate, momentum=schedule.momentum, weight_decay=schedule.weight_decay)

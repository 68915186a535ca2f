"""Learning rate over time."""

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau

from calibox_training.training_spec import Schedule

COSINE_FLOOR = 0.01  # the last steps still move a little


def learning_rate_factor(schedule: Schedule, *, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    """Linear warm-up, then the recipe's decay. The returned function takes an optimiser step from 0."""

    def factor(step: int) -> float:
        return _warmup(schedule, step) * _decay(schedule, step, steps_per_epoch, total_steps)

    return factor


def build_schedulers(
    optimizer: Optimizer, schedule: Schedule, *, steps_per_epoch: int
) -> tuple[LRScheduler, ReduceLROnPlateau | None]:
    """The scheduler to step after every optimiser step, and for `plateau` the one to step with each epoch's loss.

    The first one of `plateau` only warms up, by multiplying the rate that it finds, so that the two compose.
    """
    if schedule.decay != "plateau":
        factor = learning_rate_factor(
            schedule, steps_per_epoch=steps_per_epoch, total_steps=steps_per_epoch * schedule.epochs
        )
        return LambdaLR(optimizer, factor), None
    warm = schedule.warmup_iterations
    start = schedule.warmup_factor if warm else 1.0
    # torch's default threshold of 1e-4 (relative) stands: a loss that falls by less is flat.
    return (
        LinearLR(optimizer, start_factor=start, total_iters=max(1, warm)),
        ReduceLROnPlateau(optimizer, factor=0.1, patience=schedule.plateau_patience),
    )


def _warmup(schedule: Schedule, step: int) -> float:
    if step >= schedule.warmup_iterations:
        return 1.0
    start = schedule.warmup_factor
    return start + (1 - start) * step / schedule.warmup_iterations


def _decay(schedule: Schedule, step: int, steps_per_epoch: int, total_steps: int) -> float:
    if schedule.decay == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
        return float(0.1**passed)
    progress = min(1.0, step / max(1, total_steps))
    return COSINE_FLOOR + (1 - COSINE_FLOOR) * (1 + math.cos(math.pi * progress)) / 2

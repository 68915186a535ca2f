"""Learning rate over time, as a factor of the recipe's rate."""

import math
from collections.abc import Callable

from calibox_training.recipe import Schedule

COSINE_FLOOR = 0.01  # the last steps still move a little


def learning_rate_factor(schedule: Schedule, *, steps_per_epoch: int, total_steps: int) -> Callable[[int], float]:
    """Linear warm-up, then the recipe's decay. The returned function takes a step from 0."""

    def factor(step: int) -> float:
        return _warmup(schedule, step) * _decay(schedule, step, steps_per_epoch, total_steps)

    return factor


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

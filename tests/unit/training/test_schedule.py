import pytest
import torch
from torch.optim import SGD

from calibox_training.schedule import COSINE_FLOOR, build_schedulers, learning_rate_factor
from calibox_training.training_spec import Schedule
from tests.support.recipes import tiny_recipe


def test_warm_up_is_linear_and_steps_divide_by_ten() -> None:
    schedule = tiny_recipe(
        schedule__decay="step", schedule__milestones=[8, 11], schedule__warmup_iterations=10
    ).schedule.model_copy(update={"warmup_factor": 0.1})
    factor = learning_rate_factor(schedule, steps_per_epoch=10, total_steps=120)
    assert [factor(s) for s in (0, 5, 10, 79, 80, 110)] == pytest.approx([0.1, 0.55, 1, 1, 0.1, 0.01])


def test_cosine_falls_from_one_to_its_floor() -> None:
    schedule = tiny_recipe(schedule__warmup_iterations=0).schedule
    factor = learning_rate_factor(schedule, steps_per_epoch=10, total_steps=100)
    values = [factor(s) for s in range(101)]
    assert values[0] == pytest.approx(1)
    assert values[50] == pytest.approx((1 + COSINE_FLOOR) / 2)
    assert values[100] == pytest.approx(COSINE_FLOOR)
    assert values == sorted(values, reverse=True)


def _rates(schedule: Schedule, losses: list[float], *, steps_per_epoch: int) -> list[float]:
    """The learning rate of every step, with these mean losses of the epochs."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=schedule.learning_rate)
    scheduler, plateau = build_schedulers(optimizer, schedule, steps_per_epoch=steps_per_epoch)
    rates = []
    for loss in losses:
        for _ in range(steps_per_epoch):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        if plateau is not None:
            plateau.step(loss)
    return rates


def _plateau(patience: int, warmup: int) -> Schedule:
    changes = {
        "decay": "plateau",
        "plateau_patience": patience,
        "warmup_iterations": warmup,
        "warmup_factor": 0.5,
        "learning_rate": 1.0,
    }
    return tiny_recipe().schedule.model_copy(update=changes)


def test_a_plateau_divides_by_ten_after_more_epochs_than_its_patience() -> None:
    # The best loss is the second epoch's; the fourth after it without a better one ends the patience of three.
    losses = [2.0, 1.0, 1.1, 1.0, 1.2, 1.1, 0.9, 0.8]
    rates = _rates(_plateau(3, warmup=0), losses, steps_per_epoch=1)
    assert rates == pytest.approx([1, 1, 1, 1, 1, 1, 0.1, 0.1])


def test_a_plateau_and_the_warm_up_multiply() -> None:
    rates = _rates(_plateau(0, warmup=4), [1.0, 2.0, 0.5], steps_per_epoch=2)
    # Warm-up 0.5, 0.625, 0.75, 0.875, then 1; after the second, worse epoch a tenth of it.
    assert rates == pytest.approx([0.5, 0.625, 0.75, 0.875, 0.1, 0.1])


def test_other_decays_need_no_loss() -> None:
    schedule = tiny_recipe(schedule__decay="step", schedule__milestones=[1], schedule__warmup_iterations=0).schedule
    rates = _rates(schedule, [1.0, 1.0], steps_per_epoch=2)
    assert rates == pytest.approx([0.002, 0.002, 0.0002, 0.0002])

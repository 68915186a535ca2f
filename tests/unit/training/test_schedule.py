import pytest

from calibox_training.schedule import COSINE_FLOOR, learning_rate_factor
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

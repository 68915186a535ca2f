"""Every named fusion against its paper's formula, and the limits of its parameters."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from calibox_core.errors import InvalidParameterError
from calibox_core.fusion import (
    MAX_ALPHA,
    MIN_SIGMA,
    SMALLEST_SCORE,
    Exponents,
    Fusion,
    FusionName,
    check_exponents,
    fuse,
    log_key,
)


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


P, Q = 0.6, 0.3
FORMULAS: list[tuple[Fusion, tuple[float, float, float], Callable[[float, float], float]]] = [
    (Fusion(name=FusionName.CLASSIFICATION), (1, 0, 0), lambda p, q: p),
    (Fusion(name=FusionName.PRODUCT), (1, 1, 0), lambda p, q: p * q),
    (Fusion(name=FusionName.GEOMETRIC, alpha=0.4), (0.4, 0.6, 0), lambda p, q: p**0.4 * q**0.6),
    (Fusion(name=FusionName.POWER, alpha=2.5), (1, 2.5, 0), lambda p, q: p * q**2.5),
    (Fusion(name=FusionName.GAUSSIAN, sigma=0.5), (1, 0, 2), lambda p, q: p * math.exp(-((1 - q) ** 2) / 0.5)),
    (Fusion(name=FusionName.LOCALIZATION), (0, 1, 0), lambda p, q: q),
]
each_fusion = pytest.mark.parametrize(
    ("fusion", "exponents", "formula"), FORMULAS, ids=lambda v: getattr(v, "name", "")
)


def test_every_fusion_is_in_the_table() -> None:
    assert {fusion.name for fusion, _, _ in FORMULAS} == set(FusionName)


@each_fusion
def test_exponents_and_formula(
    fusion: Fusion, exponents: tuple[float, float, float], formula: Callable[[float, float], float]
) -> None:
    assert fusion.exponents() == pytest.approx(exponents, abs=1e-15)
    fused = fuse(f32(P), f32(Q), fusion.exponents())
    assert fused.dtype == np.float32
    assert fused[0] == pytest.approx(formula(P, Q), rel=1e-6)  # float32


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_geometric_ends_at_the_single_scores(alpha: float) -> None:
    assert Fusion(name=FusionName.GEOMETRIC, alpha=alpha).exponents() == (alpha, 1 - alpha, 0)


def test_geometric_refuses_an_alpha_above_one() -> None:
    with pytest.raises(InvalidParameterError, match=r"alpha must be within 0\.\.1 .*geometric, got 1\.5"):
        Fusion(name=FusionName.GEOMETRIC, alpha=1.5).exponents()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alpha", -0.01),
        ("alpha", MAX_ALPHA + 0.01),
        ("alpha", math.nan),
        ("alpha", math.inf),
        ("sigma", 0),
        ("sigma", MIN_SIGMA / 2),
        ("sigma", math.nan),
        ("sigma", math.inf),
        ("name", "sum"),
        ("beta", 1),
    ],
)
def test_parameters_outside_their_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        Fusion.model_validate({"name": "power", field: value})


def test_the_limits_themselves_are_allowed() -> None:
    assert Fusion(name=FusionName.POWER, alpha=MAX_ALPHA).exponents().b == MAX_ALPHA
    assert Fusion(name=FusionName.GAUSSIAN, sigma=MIN_SIGMA).exponents().g == pytest.approx(1 / MIN_SIGMA)


@pytest.mark.parametrize(("p", "q"), [(0.0, 0.7), (0.7, 0.0), (0.0, 0.0)])
@each_fusion
def test_a_score_of_zero_ranks_last_and_stays_finite(
    fusion: Fusion, exponents: object, formula: object, p: float, q: float
) -> None:
    zero, some = log_key(f32(p, 0.7), f32(q, 0.7), fusion.exponents())
    assert np.isfinite(zero)
    assert zero <= some


def test_zero_ranks_as_the_smallest_score_does() -> None:
    exponents = Exponents(1.0, 1.0, 0.0)
    keys = log_key(f32(0, float(SMALLEST_SCORE), float(2 * SMALLEST_SCORE)), f32(0.5, 0.5, 0.5), exponents)
    assert keys[0] == keys[1] < keys[2]


def test_scores_of_one_give_a_key_of_one() -> None:
    for fusion, _, _ in FORMULAS:
        assert fuse(f32(1), f32(1), fusion.exponents())[0] == 1


def test_p_and_q_broadcast() -> None:
    p, q = np.full((4, 3), 0.5, np.float32), np.linspace(0, 1, 4, dtype=np.float32)[:, None]
    keys = log_key(p, q, Exponents(1.0, 1.0, 0.0))
    assert keys.shape == (4, 3)
    assert (np.diff(keys, axis=0) > 0).all()


@pytest.mark.parametrize("wrong", [(-1.0, 0.0, 0.0), (0.0, math.nan, 0.0), (0.0, 0.0, math.inf)])
def test_exponents_must_be_finite_and_not_negative(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidParameterError, match="finite and at least 0"):
        check_exponents(Exponents(*wrong))


def test_good_exponents_pass_through() -> None:
    assert check_exponents(Exponents(0.0, 1.0, 2.0)) == (0.0, 1.0, 2.0)

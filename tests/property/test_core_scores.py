"""Fusion and score map: order is what matters."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibox_core.fusion import MAX_ALPHA, MIN_SIGMA, Exponents, Fusion, FusionName, fuse, log_key
from calibox_core.score_map import ScoreMap

scores = st.floats(0, 1, width=32)
exponents = st.builds(Exponents, *(st.floats(0, MAX_ALPHA, width=32) for _ in range(3)))
fusions = st.builds(
    Fusion,
    name=st.sampled_from(FusionName),
    alpha=st.floats(0, 1),  # the range that every fusion allows
    sigma=st.floats(MIN_SIGMA, 10),
)


def f32(*values: float) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def key(p: float, q: float, e: Exponents) -> float:
    return float(log_key(f32(p), f32(q), e)[0])


@given(scores, scores, exponents)
def test_the_key_agrees_with_the_formula(p: float, q: float, e: Exponents) -> None:
    smallest = 2.0**-126
    expected = e.a * math.log(max(p, smallest)) + e.b * math.log(max(q, smallest)) - e.g * (1 - q) ** 2
    # float32 carries 24 bits (6e-8) through two products, two sums and a logarithm.
    assert key(p, q, e) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@given(scores, scores, scores, fusions)
def test_a_key_never_falls_with_a_score(p: float, q: float, more: float, fusion: Fusion) -> None:
    e = fusion.exponents()
    assert key(max(p, more), q, e) >= key(p, q, e)
    assert key(p, max(q, more), e) >= key(p, q, e)


@given(st.lists(st.tuples(scores, scores), min_size=2, max_size=20), exponents)
def test_the_logarithm_orders_as_the_key_does(pairs: list[tuple[float, float]], e: Exponents) -> None:
    p, q = np.array(pairs, np.float32).T
    logs, keys = log_key(p, q, e), fuse(p, q, e)
    # The key underflows to ties far below; wherever it differs, the logarithm differs in the same direction.
    order = np.argsort(logs, kind="stable")
    assert (np.diff(keys[order]) >= 0).all()


@given(scores, scores, exponents)
def test_keys_are_finite_and_fused_scores_are_scores(p: float, q: float, e: Exponents) -> None:
    assert math.isfinite(key(p, q, e))
    assert 0 <= fuse(f32(p), f32(q), e)[0] <= 1


@st.composite
def score_maps(draw: st.DrawFn) -> ScoreMap:
    """Maps whose knots lie at least 1e-3 apart, so that slopes stay where float64 can invert them."""
    count = draw(st.integers(2, 8))
    knots = st.lists(st.integers(0, 1000), min_size=count, max_size=count, unique=True).map(sorted)
    return ScoreMap(
        raw=tuple(k / 1000 for k in draw(knots)),
        mapped=tuple(k / 1000 for k in draw(knots)),
    )


@given(score_maps(), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_map_keeps_the_order(score_map: ScoreMap, raw: list[float]) -> None:
    mapped = score_map.apply(np.sort(np.array(raw)))
    assert (np.diff(mapped) >= 0).all()
    assert score_map.mapped[0] <= mapped[0] <= mapped[-1] <= score_map.mapped[-1] or score_map.is_identity


@given(score_maps(), st.floats(0.001, 1))
def test_inverting_undoes_applying(score_map: ScoreMap, share: float) -> None:
    low, high = score_map.raw[0], score_map.raw[-1]
    score = low + share * (high - low)
    mapped = float(score_map.apply(np.array([score]))[0])
    # Slopes of up to 1000 either way multiply the last bits of float64.
    assert score_map.invert(mapped) == pytest.approx(score, abs=1e-9)


@given(score_maps(), st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1))
def test_a_threshold_keeps_the_same_scores_on_either_side(
    score_map: ScoreMap, raw: list[float], threshold: float
) -> None:
    scores_raw = np.array(raw)
    reported = score_map.apply(scores_raw)
    kept = scores_raw >= score_map.invert(threshold)
    unclear = np.abs(reported - threshold) < 1e-9  # rounding may decide either way
    assert np.array_equal(kept[~unclear], (reported >= threshold)[~unclear])

"""Fitted score maps and chosen thresholds: ranks stay, inverses are exact, more precision never lowers a threshold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibox_client.calibration.increasing import LEAST_SLOPE, METHODS, increasing_map
from calibox_client.calibration.thresholds import Curve, Unreachable, reaching_threshold, shortest_between
from calibox_core.bootstrap import average_precision, whole
from calibox_core.coco_matching import FoundObjects, ObjectBoxes, match_split
from calibox_core.operating_point import Wanted
from calibox_core.score_map import ScoreMap

# As far apart as float32 tells scores near 1 apart: float64 keeps a thousandth of that and much less.
scores = st.integers(0, 2**24).map(lambda n: n / 2**24)
samples = st.lists(st.tuples(scores, st.floats(0, 1)), min_size=1, max_size=12)
methods = pytest.mark.parametrize("method", sorted(METHODS))


def fitted(method: str, sample: list[tuple[float, float]]) -> ScoreMap:
    found = METHODS[method](*np.array(sample, np.float64).T)
    return found or ScoreMap()  # a curve that would fall is none


@methods
@given(sample=samples, tried=st.lists(scores, min_size=2, max_size=20))
def test_a_fitted_map_rises_and_goes_back_exactly(
    method: str, sample: list[tuple[float, float]], tried: list[float]
) -> None:
    found = fitted(method, sample)
    points = np.unique(np.array(tried, np.float64))
    mapped = found.apply(points)
    assert (np.diff(mapped) > 0).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()
    assert np.allclose(found.undo(mapped), points, rtol=0, atol=1e-12)
    assert [found.invert(float(value)) for value in mapped] == pytest.approx(points, abs=1e-12)
    assert ScoreMap.model_validate_json(found.model_dump_json()) == found


@given(samples)
def test_isotonic_values_are_the_best_rising_ones(sample: list[tuple[float, float]]) -> None:
    """No other rising values are nearer: those of pooled neighbours are the running extremes of means (min-max)."""
    pairs = sorted(sample)
    x = np.unique([score for score, _ in pairs])
    totals = [(sum(t for s, t in pairs if s == one), sum(s == one for s, _ in pairs)) for one in x]

    def mean(i: int, j: int) -> float:
        return sum(t for t, _ in totals[i : j + 1]) / sum(n for _, n in totals[i : j + 1])

    n = len(x)
    best = [max(min(mean(i, j) for j in range(k, n)) for i in range(k + 1)) for k in range(n)]
    found = METHODS["isotonic"](*np.array(sample, np.float64).T)
    assert found is not None
    knots = dict(zip(found.raw, found.mapped, strict=True))
    for value in set(best):
        block = [k for k in range(n) if abs(best[k] - value) < 1e-9]
        weights = [totals[k][1] for k in block]
        centre = float(np.average(x[block], weights=weights))
        nearest = min(knots, key=lambda raw: abs(raw - centre))
        if abs(nearest - centre) < 1e-9 and 0 < centre < 1:
            assert knots[nearest] == pytest.approx((1 - LEAST_SLOPE) * value + LEAST_SLOPE * centre, abs=1e-6)


@methods
@settings(max_examples=20)
@given(sample=samples, seed=st.integers(0, 2**32 - 1))
def test_ranks_and_average_precision_stay(method: str, sample: list[tuple[float, float]], seed: int) -> None:
    rng, found = np.random.default_rng(seed), fitted(method, sample)
    boxes = [np.column_stack([rng.uniform(0, 40, (12, 2)), rng.uniform(10, 30, (12, 2))]) for _ in range(3)]
    objects = [ObjectBoxes(own[:5] + 1, np.zeros(5, np.int64), np.zeros(5, np.bool_)) for own in boxes]
    raw = [np.sort(rng.random(12).astype(np.float32).astype(np.float64))[::-1] for _ in boxes]
    labels = np.zeros(12, np.int64)
    ap = [
        average_precision(
            match_split([FoundObjects(own, labels, score(s)) for own, s in zip(boxes, raw, strict=True)], objects, 1),
            whole(3),
        )
        for score in (lambda s: s, found.apply)
    ]
    assert np.abs(ap[0] - ap[1]).max() <= 1e-12


@given(
    st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=60),
    st.integers(0, 30),
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2),
    st.sampled_from(["precision", "recall"]),
    st.sampled_from([0.5, 0.9]),
)
def test_more_is_never_wanted_in_vain(
    found: list[tuple[float, bool]], missed: int, rates: list[float], measure: str, confidence: float
) -> None:
    """A higher precision never has a lower threshold, a higher recall never a higher one, and both are reached."""
    score, right = np.array([s for s, _ in found], np.float64), np.array([r for _, r in found])
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=-1.0))
    curve = Curve(score[order][ends], ends + 1, np.cumsum(right[order])[ends], int(right.sum()) + missed)
    thresholds = []
    for rate in sorted(rates):
        wanted = Wanted(measure=measure, value=rate, match_iou=0.5, confidence=confidence)
        try:
            threshold = reaching_threshold(curve, wanted, ScoreMap())
        except Unreachable:
            break
        kept = score >= threshold
        assert right[kept].sum() >= rate * (kept.sum() if measure == "precision" else curve.objects) - 1e-9
        thresholds.append(threshold)
    assert thresholds == sorted(thresholds, reverse=measure == "recall")


@given(scores, scores)
def test_the_shortest_number_lies_well_inside(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = shortest_between(low, high)
    assert low + (high - low) / 4 - 1e-15 <= found <= high - (high - low) / 4 + 1e-15


def test_a_map_through_the_ends_keeps_them() -> None:
    found = increasing_map(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.5]))
    # (1 - 0.001) * value + 0.001 * score.
    assert found.mapped == pytest.approx((0.0, 0.0005, 0.5005))

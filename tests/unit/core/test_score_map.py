"""The map of reported scores on cases worked out by hand."""

import math

import numpy as np
import pytest
from pydantic import ValidationError

from calibox_core.score_map import ScoreMap

BENT = ScoreMap(raw=(0.2, 0.5, 0.9), mapped=(0.1, 0.6, 0.8))


def test_the_default_is_the_identity_and_copies_nothing() -> None:
    scores = np.array([0.0, 0.25, 1.0], np.float32)
    assert ScoreMap().is_identity
    assert ScoreMap().apply(scores) is scores
    assert ScoreMap().invert(0.3) == 0.3


def test_scores_are_interpolated_and_hold_beyond_the_knots() -> None:
    mapped = BENT.apply(np.array([0.0, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0]))
    assert mapped == pytest.approx([0.1, 0.1, 0.35, 0.6, 0.7, 0.8, 0.8])


def test_the_type_of_the_scores_stays() -> None:
    assert BENT.apply(np.array([0.3], np.float32)).dtype == np.float32


@pytest.mark.parametrize(("threshold", "raw"), [(0.35, 0.35), (0.6, 0.5), (0.7, 0.7), (0.8, 0.9)])
def test_thresholds_are_inverted(threshold: float, raw: float) -> None:
    assert BENT.invert(threshold) == pytest.approx(raw)


def test_a_threshold_below_the_map_keeps_all_and_above_it_none() -> None:
    assert BENT.invert(0.05) == BENT.invert(0.1) == 0.0
    assert BENT.invert(0.81) == math.inf


@pytest.mark.parametrize(
    ("raw", "mapped", "complaint"),
    [
        ((0.0, 1.0), (0.0, 0.5, 1.0), "raw has 2 knots and mapped has 3"),
        ((0.0, 0.5, 0.5), (0.0, 0.5, 1.0), "raw must rise strictly"),
        ((0.0, 0.5, 1.0), (0.0, 0.6, 0.5), "mapped must rise strictly"),
        ((0.0, math.nan), (0.0, 1.0), "raw must rise strictly"),
        ((0.0, 1.0), (0.0, math.inf), "mapped must rise strictly"),
        ((0.5,), (0.5,), "at least 2"),
    ],
)
def test_bad_knots_are_named(raw: tuple[float, ...], mapped: tuple[float, ...], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ScoreMap(raw=raw, mapped=mapped)

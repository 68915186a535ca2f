"""Intervals and tests over seeds, and over seeds and images."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.bootstrap import TAILS

MANY_SEEDS = 16  # up to here every combination of signs is counted; beyond, this many random ones:
RANDOM_FLIPS = 20_000


class Estimate(NamedTuple):
    """A mean difference, its 95 % interval (NaN where there is none) and a two-sided p-value."""

    mean: float
    low: float
    high: float
    p: float

    @property
    def excludes_zero(self) -> bool:
        """False without an interval."""
        return self.low > 0 or self.high < 0


def paired_t(differences: Sequence[float]) -> Estimate:
    """Mean of paired differences over seeds, Student's interval and p-value; neither below two seeds."""
    from scipy.stats import t

    values = np.asarray(differences, np.float64)
    n, mean = len(values), float(values.mean()) if len(values) else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"))
    error = float(values.std(ddof=1) / np.sqrt(n))
    half = float(t.ppf(TAILS[1] / 100, n - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, n - 1)) if error > 0 else float(mean == 0)
    return Estimate(mean, mean - half, mean + half, p)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Share of sign combinations whose mean is at least as far from 0: with n seeds at least 2 / 2^n."""
    values = np.asarray(differences, np.float64)
    if not len(values):
        return float("nan")
    if len(values) <= MANY_SEEDS:
        signs = np.array(list(product((1.0, -1.0), repeat=len(values))))
    else:
        signs = np.random.default_rng(0).choice((1.0, -1.0), (RANDOM_FLIPS, len(values)))
        signs[0] = 1.0
    means = np.abs(signs @ values)
    return float((means >= abs(values.sum()) * (1 - 1e-12)).mean())  # the observed one is among them, rounding aside


def hierarchical(means: Sequence[float], draws_SB: NDArray[np.float64]) -> Estimate:
    """Interval over seeds and images.

    Seeds are drawn with replacement; within a draw all of them meet the same resampling of the images, because they
    were measured on the same ones.

    Args:
        means: the difference of each seed on all images.
        draws_SB: the difference of each seed (S) in each resampling of the images (B).
    """
    seeds, draws = draws_SB.shape
    chosen = np.random.default_rng(0).integers(0, seeds, (draws, seeds))
    values = np.take_along_axis(draws_SB.T, chosen, axis=1).mean(axis=1)
    low, high = np.percentile(values, TAILS)
    return Estimate(float(np.mean(means)), float(low), float(high), bootstrap_p(values))


def bootstrap_p(values_B: NDArray[np.float64]) -> float:
    """Two-sided p-value of a mean of 0 by resampled means.

    Counted while at least one of them lies on the other side of 0. Where none does, counting can only say "below
    2 / draws"; then it is the tail of the normal distribution with their mean and deviation, at most that.
    """
    from scipy.stats import norm

    beyond = int(min((values_B <= 0).sum(), (values_B >= 0).sum()))
    counted = min(1.0, 2 * (beyond + 1) / (len(values_B) + 1))
    spread = float(values_B.std())
    if beyond or spread == 0:
        return counted
    return min(counted, float(2 * norm.sf(abs(values_B.mean()) / spread)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values of one family, in the order given; NaN stays NaN and is no member."""
    adjusted = [float("nan")] * len(p_values)
    known = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted

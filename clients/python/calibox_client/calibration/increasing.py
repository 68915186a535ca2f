"""Strictly increasing maps from raw scores to what they are worth, fitted on scores and targets.

Isotonic regression joins neighbours until the means rise; joining the blocks' centres by lines instead of steps keeps
the ranks (Oron and Flournoy 2017, "Centered Isotonic Regression"). Platt scaling is a logistic curve of the score's
logit (Platt 1999), beta calibration one of ln s and -ln(1 - s) (Kull et al. 2017). Targets may be shares, such as IoUs:
cross entropy has its least at their mean all the same.

Letters: N detections, K knots, F features.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.score_map import ScoreMap

# Share of the identity in every map, so that it rises by at least a thousandth of what the score does: its inverse
# is exact to 1e-13, and no announced score is moved by more than a thousandth.
LEAST_SLOPE = 1e-3
# Of a curve between 0 and 1, denser where the curve is steep at the ends: lines between them are within 1e-3 of it.
CURVE_KNOTS = 1 / (1 + np.exp(-np.linspace(-8, 8, 97)))
_SMALLEST = 1e-6  # score that a logarithm sees
_RIDGE = 1e-6  # keeps Newton's steps finite where targets are parted completely
_STEPS = 50  # of Newton, which needs about ten
Fit = Callable[[NDArray[np.float64], NDArray[np.float64]], ScoreMap | None]


def isotonic(scores_N: NDArray[np.float64], targets_N: NDArray[np.float64]) -> ScoreMap | None:
    """Through the centres of the blocks that pooling adjacent violators leaves; None without detections."""
    if not len(scores_N):
        return None
    x, position = np.unique(scores_N, return_inverse=True)
    weight = np.bincount(position).astype(np.float64)
    total = np.bincount(position, targets_N)
    blocks: list[tuple[float, float, float]] = []  # weight, sum of targets, sum of scores
    for w, t, s in zip(weight, total, x * weight, strict=True):
        block = (float(w), float(t), float(s))
        while blocks and blocks[-1][1] * block[0] >= block[1] * blocks[-1][0]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    count_K, targets_K, scores_K = np.array(blocks).T
    return increasing_map(scores_K / count_K, targets_K / count_K)


def platt(scores_N: NDArray[np.float64], targets_N: NDArray[np.float64]) -> ScoreMap | None:
    """A logistic curve of the score's logit; None where it would not rise."""
    return _curve(lambda s: np.stack([_logit(s)], axis=1), scores_N, targets_N)


def beta(scores_N: NDArray[np.float64], targets_N: NDArray[np.float64]) -> ScoreMap | None:
    """A logistic curve of ln s and -ln(1 - s); what would fall is left out. None where nothing rises."""
    return _curve(_both_logarithms, scores_N, targets_N)


METHODS: Mapping[str, Fit] = {"isotonic": isotonic, "platt": platt, "beta": beta}


def increasing_map(scores_K: NDArray[np.float64], values_K: NDArray[np.float64]) -> ScoreMap:
    """A map over all of 0..1 through these knots.

    Args:
        scores_K: rising strictly, within 0..1.
        values_K: never falling, within 0..1.
    """
    raw, values = scores_K, values_K
    if raw[0] > 0:
        raw, values = np.append(0.0, raw), np.append(0.0, values)
    if raw[-1] < 1:
        raw, values = np.append(raw, 1.0), np.append(values, 1.0)
    mapped = (1 - LEAST_SLOPE) * values + LEAST_SLOPE * raw
    rising = np.append(True, np.diff(mapped) > 0)  # what rounding joins
    return ScoreMap(raw=tuple(raw[rising].tolist()), mapped=tuple(mapped[rising].tolist()))


def _curve(
    features: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    scores_N: NDArray[np.float64],
    targets_N: NDArray[np.float64],
) -> ScoreMap | None:
    """A logistic curve of features that rise with the score."""
    if not len(scores_N):
        return None
    x_NF, knots_KF = features(scores_N), features(CURVE_KNOTS)
    used = np.arange(x_NF.shape[1])
    while len(used):
        slopes, offset = _logistic(x_NF[:, used], targets_N)
        if (slopes > 0).all():
            return increasing_map(CURVE_KNOTS, _sigmoid(knots_KF[:, used] @ slopes + offset))
        used = np.delete(used, int(slopes.argmin()))
    return None


def _logistic(x_NF: NDArray[np.float64], targets_N: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Slopes and offset of least cross entropy, by Newton's method with halved steps where a step leads up."""
    x = np.column_stack([x_NF, np.ones(len(x_NF))])
    found = np.zeros(x.shape[1])
    loss = _cross_entropy(x, targets_N, found)
    for _ in range(_STEPS):
        p_N = _sigmoid(x @ found)
        gradient = x.T @ (p_N - targets_N) + _RIDGE * found
        curvature = (x * (p_N * (1 - p_N))[:, None]).T @ x + _RIDGE * np.eye(len(found))
        step = np.linalg.solve(curvature, gradient)
        new, changed = found, loss
        for size in 0.5 ** np.arange(20):
            new = found - size * step
            if (changed := _cross_entropy(x, targets_N, new)) <= loss:
                break
        if loss - changed <= 1e-12 * abs(loss):
            break
        found, loss = new, changed
    return found[:-1], float(found[-1])


def _cross_entropy(x: NDArray[np.float64], targets_N: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    z_N = x @ found
    return float((np.logaddexp(0, z_N) - targets_N * z_N).sum() + _RIDGE / 2 * (found @ found))


def _both_logarithms(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(scores, _SMALLEST, 1 - _SMALLEST)
    return np.stack([np.log(clipped), -np.log1p(-clipped)], axis=1)


def _logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(_both_logarithms(scores).sum(axis=1))


def _sigmoid(z: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -z)), np.float64)

"""The ranking key ``p^a * q^b * exp(-g * (1 - q)^2)`` in numpy float32, and its exponents.

Needs numpy alone, so that the operator's reference runs wherever kernels do.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.errors import InvalidParameterError

# Scores are clamped from below before the logarithm, so that a score of 0 ranks last and never makes a NaN.
# The smallest normal float32: one more step down and runtimes that flush denormals would disagree.
SMALLEST_SCORE = np.float32(2.0**-126)


class Exponents(NamedTuple):
    """(a, b, g) of ``p^a * q^b * exp(-g * (1 - q)^2)``; all finite and >= 0."""

    a: float
    b: float
    g: float


def log_key(p: NDArray[Any], q: NDArray[Any], exponents: Exponents) -> NDArray[np.float32]:
    """Logarithm of the ranking key, float32, p and q broadcast together. Orders exactly as the key does."""
    a, b, g = (np.float32(value) for value in exponents)
    logs = a * np.log(np.maximum(p, SMALLEST_SCORE, dtype=np.float32))
    logs = logs + b * np.log(np.maximum(q, SMALLEST_SCORE, dtype=np.float32))
    miss = np.float32(1) - np.asarray(q, np.float32)
    key: NDArray[np.float32] = logs - g * (miss * miss)
    return key


def fuse(p: NDArray[Any], q: NDArray[Any], exponents: Exponents) -> NDArray[np.float32]:
    """The ranking key itself, float32 in 0..1."""
    fused: NDArray[np.float32] = np.exp(log_key(p, q, exponents))
    return fused


def check_exponents(exponents: Exponents) -> Exponents:
    """Returns them when finite and >= 0: the operator's anchor-first selection needs a key that never falls with p.

    Raises:
        InvalidParameterError: otherwise.
    """
    if not all(math.isfinite(value) and value >= 0 for value in exponents):
        raise InvalidParameterError(f"fusion exponents must be finite and at least 0, got {tuple(exponents)}")
    return exponents

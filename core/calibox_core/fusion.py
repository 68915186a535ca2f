"""One formula for every score fusion of the five papers.

The ranking key is ``p^a * q^b * exp(-g * (1 - q)^2)`` with p the classification score and q the localization score,
both in 0..1. A fusion is a name for a choice of the exponents (a, b, g); it is data in a manifest or a request.
"""

import math
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from calibox_core.errors import InvalidParameterError

# Scores are clamped from below before the logarithm, so that a score of 0 ranks last and never makes a NaN.
# The smallest normal float32: one more step down and runtimes that flush denormals would disagree.
SMALLEST_SCORE = np.float32(2.0**-126)

MAX_ALPHA = 16.0  # far above any useful exponent; keeps p^alpha away from underflow of every candidate at once
MIN_SIGMA = 1e-3


class FusionName(StrEnum):
    """How p and q become the ranking key."""

    CLASSIFICATION = "classification"
    PRODUCT = "product"
    GEOMETRIC = "geometric"
    POWER = "power"
    GAUSSIAN = "gaussian"
    LOCALIZATION = "localization"


class Exponents(NamedTuple):
    """(a, b, g) of ``p^a * q^b * exp(-g * (1 - q)^2)``; all finite and >= 0."""

    a: float
    b: float
    g: float


class Fusion(BaseModel):
    """A named fusion with its parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FusionName = Field(description="Formula of the ranking key.")
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=MAX_ALPHA,
        allow_inf_nan=False,
        description="`geometric`: p^alpha * q^(1-alpha), 0..1. `power`: p * q^alpha. Unused by the others.",
    )
    sigma: float = Field(
        default=1.0,
        ge=MIN_SIGMA,
        allow_inf_nan=False,
        description="`gaussian`: p * exp(-(1-q)^2 / sigma). Unused by the others.",
    )

    def exponents(self) -> Exponents:
        """The three numbers that the graph takes.

        Raises:
            InvalidParameterError: `geometric` with alpha above 1, whose key would fall with q.
        """
        match self.name:
            case FusionName.CLASSIFICATION:
                return Exponents(1.0, 0.0, 0.0)  # plain detectors; LAAR's ILC
            case FusionName.PRODUCT:
                return Exponents(1.0, 1.0, 0.0)  # LAAR's CQS; LED's LE-Product
            case FusionName.GEOMETRIC:  # IoU-aware RetinaNet, eq. 5
                if self.alpha > 1:
                    raise InvalidParameterError(
                        f"alpha must be within 0..1 for the fusion geometric, got {self.alpha:g}"
                    )
                return Exponents(self.alpha, 1.0 - self.alpha, 0.0)
            case FusionName.POWER:
                return Exponents(1.0, self.alpha, 0.0)  # CLQ
            case FusionName.GAUSSIAN:
                return Exponents(1.0, 0.0, 1.0 / self.sigma)  # LED's LE-Gaussian
            case FusionName.LOCALIZATION:
                return Exponents(0.0, 1.0, 0.0)  # IoU-Net's IoU-guided NMS


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

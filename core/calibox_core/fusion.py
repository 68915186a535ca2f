"""One formula for every score fusion of the five papers.

The ranking key is ``p^a * q^b * exp(-g * (1 - q)^2)`` with p the classification score and q the localization score,
both in 0..1. A fusion is a name for a choice of the exponents (a, b, g); it is data in a manifest or a request.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from calibox_core.errors import InvalidParameterError
from calibox_core.ranking import SMALLEST_SCORE, Exponents, check_exponents, fuse, log_key

__all__ = [
    "MAX_ALPHA",
    "MIN_SIGMA",
    "SMALLEST_SCORE",
    "Exponents",
    "Fusion",
    "FusionName",
    "check_exponents",
    "fuse",
    "log_key",
]

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

"""A strictly increasing map of the reported score, written by calibration, the identity until then."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator


class ScoreMap(BaseModel):
    """Piecewise linear through knots, strictly increasing, so that ranking and AP stay as they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    raw: tuple[float, ...] = Field(default=(0.0, 1.0), min_length=2, description="Scores of the graph, rising.")
    mapped: tuple[float, ...] = Field(
        default=(0.0, 1.0), min_length=2, description="Reported scores at these knots, rising."
    )

    @model_validator(mode="after")
    def _knots_rise(self) -> Self:
        if len(self.raw) != len(self.mapped):
            raise ValueError(f"raw has {len(self.raw)} knots and mapped has {len(self.mapped)}; they must pair up")
        for name, knots in (("raw", self.raw), ("mapped", self.mapped)):
            if not (np.isfinite(knots).all() and (np.diff(knots) > 0).all()):
                raise ValueError(f"{name} must rise strictly from knot to knot, got {knots}")
        return self

    @property
    def is_identity(self) -> bool:
        """Whether applying it changes nothing."""
        return self.raw == self.mapped

    def apply(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Scores of the graph to reported scores; beyond the knots the first and last value hold."""
        return scores if self.is_identity else np.interp(scores, self.raw, self.mapped).astype(scores.dtype)

    def undo(self, scores: NDArray[Any]) -> NDArray[Any]:
        """Reported scores back to scores of the graph; what lies beyond the knots is the first or last of them."""
        return scores if self.is_identity else np.interp(scores, self.mapped, self.raw).astype(scores.dtype)

    def invert(self, threshold: float) -> float:
        """The score of the graph that is reported as ``threshold``; outside the map's range it keeps all or none."""
        if self.is_identity or threshold > self.mapped[-1]:
            return threshold if self.is_identity else float("inf")
        return float(np.interp(threshold, self.mapped, self.raw)) if threshold > self.mapped[0] else 0.0

"""Named operating points of a bundle, and how its scores were calibrated: what `calibox calibrate` writes.

An operating point is a ranking with thresholds that reached a wanted precision or recall on the calibration half of the
data, and what the other half, the test half, says about it. Rates and thresholds are 0..1.
"""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from calibox_core.fusion import Fusion

# A word for a query: `?operating_point=precision90`.
PointName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9._-]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Errors = dict[str, float | None]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Part):
    """A share with its 95 % interval; null where nothing was counted."""

    value: Share | None = Field(description="What was measured.")
    low: Share | None = Field(description="Lower end of the interval.")
    high: Share | None = Field(description="Upper end of the interval.")


class PointMeasure(_Part):
    """What one half of the data says about an operating point."""

    images: int = Field(ge=0, description="Images of this half.")
    objects: int = Field(ge=0, description="Objects to be found in them.")
    detections: int = Field(ge=0, description="Detections that the point returns in them.")
    precision: Rate = Field(description="Share of the detections that are right.")
    recall: Rate = Field(description="Share of the objects that are found.")
    f1: Rate = Field(description="Harmonic mean of precision and recall.")


class Wanted(_Part):
    """What a threshold was chosen for."""

    measure: Literal["precision", "recall"] = Field(description="Which rate.")
    value: Share = Field(description="The least that it should be.")
    match_iou: Share = Field(description="A detection is right when its IoU with an object is at least this.")
    confidence: Share = Field(
        default=0.5, description="Of the Wilson bound that had to reach the value; 0.5 is the rate itself."
    )


class OperatingPoint(_Part):
    """A ranking with its thresholds, under a name that requests may give."""

    name: PointName = Field(description="What requests name it by.")
    description: str = Field(default="", description="One sentence.")
    wanted: Wanted = Field(description="What its thresholds were chosen for.")
    fusion: Fusion = Field(description="Its ranking.")
    score_threshold: Share = Field(description="Reported scores of at least this, of classes without one of their own.")
    class_thresholds: dict[str, Share] = Field(
        default_factory=dict, description="Reported scores of at least this, by class name."
    )
    calibration: PointMeasure = Field(description="On the half that the thresholds were chosen on.")
    test: PointMeasure = Field(description="On the other half.")

    def threshold_of(self, class_name: str) -> float:
        """The least reported score of a class."""
        return self.class_thresholds.get(class_name, self.score_threshold)


class FusionChoice(_Part):
    """Why the ranking is what it is."""

    metric: str = Field(description="What rankings were compared by, on the calibration half.")
    candidates: dict[str, Errors] = Field(description="The metric of each ranking that was asked for, on both halves.")
    chosen: str = Field(description="The ranking of this bundle.")
    verdict: str = Field(description="One sentence.")


class MapChoice(_Part):
    """Where the score map comes from."""

    means: Literal["precision", "iou", "none"] = Field(description="What a mapped score announces; `none`: not mapped.")
    match_iou: Share = Field(description="IoU from which a detection is right, or matched at all for `iou`.")
    method: str = Field(description="How it was fitted; `identity` where no fit was better.")
    cross_validation: Errors = Field(description="Error of each method on held-out images of the calibration half.")
    before: dict[str, Errors] = Field(description="Calibration errors of each score on the test half, without the map.")
    after: dict[str, Errors] = Field(description="The same with it.")
    change: dict[str, tuple[float, float, float]] = Field(
        default_factory=dict,
        description="Change of each error of `score` on the test half with the ends of its 95 % interval.",
    )
    verdict: str = Field(description="One sentence.")


class CalibrationRecord(_Part):
    """How a bundle was calibrated, and on what."""

    of_version: str = Field(description="The version with the same graph that was calibrated.")
    dataset: str = Field(description="The data, as they were named.")
    split: str = Field(description="Of the data.")
    images_sha256: str = Field(description="Hash over image ids and file names.")
    images: int = Field(ge=0, description="Of both halves.")
    fusion: FusionChoice | None = Field(default=None, description="Null where the ranking was kept unasked.")
    score_map: MapChoice = Field(description="The map of reported scores.")
    notes: tuple[str, ...] = Field(default=(), description="What could not be reached, a sentence each.")
    calibox_version: str = Field(description="Version of calibox that wrote it.")
    created: datetime = Field(description="Time of the calibration, UTC.")

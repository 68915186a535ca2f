"""The parity certificate of a bundle: how far each place that a model passes through moves its answers.

A chain begins at PyTorch, or at the ONNX file where no checkpoint is at hand, and ends at detections in an answer over
HTTP. `calibox verify --chain` measures it and writes it into the manifest.
"""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gap(_Part):
    """Distances of paired detections."""

    mean: float = Field(ge=0, description="Over all pairs.")
    largest: float = Field(ge=0, description="Of one pair.")


class Difference(_Part):
    """A metric less that of the other side, 0..1."""

    value: float = Field(description="On these images.")
    low: float = Field(description="2.5 % percentile of paired resamplings of the images.")
    high: float = Field(description="97.5 % percentile.")


class Drift(_Part):
    """Answers of one place against those of another, image by image."""

    same_images: float = Field(
        ge=0, le=1, description="Share of images whose kept sets are the same wherever no near tie decides."
    )
    different: int = Field(ge=0, description="Detections of one side alone where only one side is right.")
    excused: int = Field(ge=0, description="Detections of one side alone where a near tie makes either side right.")
    unpaired: float = Field(ge=0, description="Share of detections without a partner of their class at IoU 0.5.")
    box: Gap = Field(description="Largest shift of a coordinate in a pair, pixels of the input.")
    score: Gap = Field(description="Of reported scores, 0..1.")
    classification_score: Gap = Field(description="Of classification scores, 0..1.")
    localization_score: Gap = Field(description="Of localization scores, 0..1.")
    metrics: dict[str, Difference | None] = Field(description="Of AP and AP75; null where nothing can be measured.")


class Stop(_Part):
    """A place that answers were taken from."""

    name: str = Field(description="`pytorch`, runtime/precision, or `http` and what the server ran.")
    version: str = Field(description="Of what computed there.")
    metrics: dict[str, float | None] = Field(description="AP and AP75, 0..1.")


class Hop(Stop):
    """A place, held against the one before it and against the first."""

    before: str = Field(description="Name of the place that it is held against.")
    exact: bool = Field(description="Whether it must give the same answer; else it may lose no more AP than the limit.")
    holds: bool = Field(description="Whether it does.")
    reason: str = Field(default="", description="What does not hold, as a sentence.")
    from_before: Drift = Field(description="Against the place before.")
    from_first: Drift = Field(description="Against the first place of the chain.")


class Parity(_Part):
    """What `calibox verify --chain` measured. Scores and AP are 0..1, boxes in pixels of the input."""

    bundle: str = Field(description="Name and version of the bundle that was measured.")
    model_sha256: str = Field(description="Of its model.onnx.")
    dataset: str = Field(description="Data set and split.")
    data_sha256: str = Field(description="Over the split's annotation files and the images that were shown.")
    images: int = Field(ge=1, description="How many images were shown.")
    limit: float = Field(description="Points of AP and AP75 that an engine of lower precision may lose.")
    machine: str = Field(description="Processor and number of cores.")
    calibox_version: str = Field(description="Version of calibox that measured.")
    created: datetime = Field(description="Time of the measurement, UTC.")
    first: Stop = Field(description="Where the chain begins.")
    hops: tuple[Hop, ...] = Field(description="The places after it, in the order in which they were measured.")
    left_out: tuple[str, ...] = Field(default=(), description="What could not be measured here, and why.")

    @property
    def broken(self) -> Hop | None:
        """The first place that does not hold."""
        return next((hop for hop in self.hops if not hop.holds), None)

    def standing(self, bundle: str, model_sha256: str) -> str:
        """What it says of a bundle, in a few words.

        Args:
            bundle: its name and version.
            model_sha256: of its model.onnx.
        """
        if (bundle, model_sha256) != (self.bundle, self.model_sha256):
            return "of another bundle"
        if (hop := self.broken) is not None:
            return f"breaks at {hop.name}"
        return f"holds from {self.first.name} to {self.hops[-1].name if self.hops else self.first.name}"

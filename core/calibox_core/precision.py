"""What a model computes in, and what that costs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Precision = Literal["fp32", "fp16", "bf16", "int8"]


class Accuracy(BaseModel):
    """A model of lower precision, or an engine, held against the ONNX file in float32, on the same images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str = Field(description="Data set and split.")
    images: int = Field(ge=1, description="Images of it that were measured.")
    reference: dict[str, float | None] = Field(description="AP, AP75, ... of the ONNX file, 0..1.")
    engine: dict[str, float | None] = Field(description="The same of this engine.")
    score_drift: float = Field(description="Mean distance of the scores of paired detections, 0..1.")
    score_drift_max: float = Field(description="The largest one.")
    box_drift: float = Field(description="Mean of the largest shift of a coordinate in a pair, pixels of the input.")
    unpaired: float = Field(description="Share of the detections without a partner of their class at IoU 0.5.")

"""CalibratedNMS: what is fixed in its graph, checked; the operator itself is `calibox_core.suppression`."""

from pydantic import BaseModel, ConfigDict, Field

from calibox_core.suppression import Candidates, Detections, OutScore, calibrated_nms, select_candidates, suppress

__all__ = [
    "TENSORRT_TOP_K_LIMIT",
    "Candidates",
    "Detections",
    "NmsAttributes",
    "OutScore",
    "calibrated_nms",
    "select_candidates",
    "suppress",
]

TENSORRT_TOP_K_LIMIT = 3840


class NmsAttributes(BaseModel):
    """What is fixed in the graph; everything else is an input per image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    out_score: OutScore = Field(
        default=OutScore.KEY,
        description="Reported score: the ranking key, p of the kept box, or the maximum p of the kept box and of the "
        "boxes that it removes (LAAR's LC+CS, IoU-Net).",
    )
    class_agnostic: bool = Field(default=False, description="Suppress across classes instead of within each.")
    candidate_floor: float = Field(
        default=0.001, ge=0, lt=1, description="Candidates have a classification score above this (0..1)."
    )
    pre_nms_top_k: int = Field(
        default=1000, ge=1, le=TENSORRT_TOP_K_LIMIT, description="Best candidates by key that enter the suppression."
    )
    max_detections: int = Field(default=100, ge=1, description="Rows of the outputs: detections per image at most.")

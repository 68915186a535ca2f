"""IoU-Net's parts as a recipe would name them. Defaults are the paper's, or say where they come from."""

from typing import Annotated, Literal

from pydantic import Field

from calibox_training.parts import NotNegative, Part, Positive

Count = Annotated[int, Field(ge=1)]


class JitterSpec(Part):
    """Training boxes of the predictor."""

    per_image: Count = Field(
        default=512, description="Boxes per image with an object; the paper takes 512 RoIs per image."
    )
    least_iou: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Smallest IoU with the object that a box was made from (the paper: 0.5)."
    )


class PredictorSpec(Part):
    """The two-layer network that predicts a box's IoU."""

    width: Count = Field(default=1024, description="Units of each hidden layer (the paper: 1024).")
    pooled: Count = Field(default=7, description="Bins of the pooled map along either side (the paper: 7).")
    initialisation: Literal["gaussian", "he"] = Field(
        default="gaussian",
        description="Hidden layers: a deviation of 0.01 (the paper), under which a narrow network starts out nearly "
        "silent, or He's, which fits any width.",
    )
    loss_weight: NotNegative = Field(
        default=5.0, description="The paper gives none; 5 was best, and 10 worse, in a published re-implementation."
    )


class RefinementSpec(Part):
    """Optimisation-based refinement, Algorithm 2."""

    steps: Annotated[int, Field(ge=0)] = Field(default=5, description="T; 0 leaves the boxes alone.")
    step_size: Positive = Field(
        default=0.5,
        description="lambda: box sides moved per unit of the network's raw output (2 IoU - 1) and per side.",
    )
    early_stop: NotNegative = Field(
        default=0.001, description="Omega 1: a change of IoU below this ends a box's steps."
    )
    tolerance: Annotated[float, Field(le=0, allow_inf_nan=False)] = Field(
        default=-0.01, description="Omega 2: an IoU that falls by more than this ends a box's steps."
    )
    keep_worse: bool = Field(
        default=False,
        description="True: a box stays where its last step took it (the paper). False: it goes back to the best place "
        "it has been at, so that the predicted IoU never falls.",
    )

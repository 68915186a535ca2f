"""Losses as a recipe names them. Defaults are IoU-aware RetinaNet's."""

from typing import Annotated, Literal

from pydantic import Field

from calibox_training.parts import Fraction, NotNegative, Part, Positive


class LossSpec(Part):
    """Losses, with the values of RetinaNet where nothing is said."""

    classification: Literal["focal", "softmax", "qfl", "vfl", "mal", "ia_bce"] = Field(
        default="focal",
        description="focal and softmax learn hard labels, softmax (with model.class_activation softmax) on positives "
        "and the hardest background; the others the IoU of the decoded box at the object's class: quality focal loss, "
        "varifocal loss, matchability-aware loss, IoU-aware cross entropy.",
    )
    negative_ratio: NotNegative = Field(
        default=3.0, description="softmax: background anchors that are kept for each positive of an image (SSD: 3)."
    )
    joint_alpha: NotNegative = Field(
        default=0.0,
        description="Exponent of q in the score p * q^alpha that the classification loss trains (CLQ: 0.3); 0: p "
        "alone. Not with focal.",
    )
    focal_alpha: Fraction = Field(default=0.25, description="focal: balance of positives.")
    focal_gamma: NotNegative = Field(default=2.0, description="focal: focusing exponent.")
    qfl_beta: Annotated[float, Field(ge=1)] = Field(default=2.0, description="qfl: focusing exponent.")
    box: Literal["smooth_l1", "giou"] = Field(default="smooth_l1", description="On the code, or on decoded boxes.")
    smooth_l1_beta: Positive = Field(
        default=0.11, description="Where smooth L1 turns linear (mmdetection: 0.11, SSD: 1)."
    )
    box_weight: Positive = Field(default=1.0, description="Weight of the box loss.")
    box_weighting: Literal["uniform", "score", "centerness"] = Field(
        default="uniform",
        description="Weight of each positive in the box loss: all 1, its trained score (CLQ's code) or its centerness "
        "(ATSS).",
    )
    dfl_weight: NotNegative = Field(default=0.25, description="dfl: weight of the distribution's own loss.")

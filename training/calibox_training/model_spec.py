"""The model and its losses as a recipe names them: parts and their values. Defaults are IoU-aware RetinaNet's."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

Backbone = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "mobilenet_v3_large",
]
# Backbones that can be had with fewer channels.
NARROWABLE = ("resnet18", "resnet34")
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A group of values; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AnchorSpec(Part):
    """Anchors of a level: base_size * stride * scale, for each aspect ratio (height / width)."""

    base_size: Positive = Field(default=4.0, description="Side in strides (RetinaNet: 4, ATSS and CLQ: 8).")
    scales: tuple[Positive, ...] = Field(
        default=(1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        min_length=1,
        description="Multiples of the base (RetinaNet: octaves in thirds).",
    )
    ratios: tuple[Positive, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1, description="Height over width.")
    offset: Fraction = Field(
        default=0.5, description="Position of the first centre, in strides (mmdetection, torchvision: 0)."
    )
    whole_pixels: bool = Field(
        default=False,
        description="torchvision's anchors: sides cut and corners rounded to pixels, and the step between centres is "
        "the input's size divided by the map's, cut to pixels.",
    )

    @property
    def per_location(self) -> int:
        """Anchors at each position."""
        return len(self.scales) * len(self.ratios)


class AssignerSpec(Part):
    """Which anchors answer for which object."""

    kind: Literal["max_iou", "atss"] = Field(
        default="max_iou", description="Fixed IoU thresholds (RetinaNet), or a threshold per object (ATSS)."
    )
    positive_iou: Fraction = Field(default=0.5, description="max_iou: an anchor with at least this IoU is positive.")
    negative_iou: Fraction = Field(
        default=0.4, description="max_iou: below this it is background; between, it is ignored."
    )
    min_positive_iou: Fraction = Field(
        default=0.0,
        description="max_iou: every object claims its best anchors when their IoU is above this (mmdetection: 0; "
        "1 turns it off).",
    )
    top_k: Annotated[int, Field(ge=1)] = Field(default=9, description="atss: nearest anchors per level and object.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}")
        return self


class BoxSpec(Part):
    """What the box branch predicts."""

    coding: Literal["delta", "ltrb", "dfl"] = Field(
        default="delta",
        description="delta: centre and logarithm of size against the anchor. ltrb: logarithms of the four distances "
        "from the anchor's centre, in strides. dfl: a distribution over 0..reg_max for each distance.",
    )
    centre_deviation: Positive = Field(default=1.0, description="delta: unit of the centre (R-CNN, ATSS: 0.1).")
    size_deviation: Positive = Field(default=1.0, description="delta: unit of the log sizes (R-CNN, ATSS: 0.2).")
    reg_max: Annotated[int, Field(ge=1)] = Field(default=16, description="dfl: largest distance, in strides.")
    level_scales: bool = Field(default=False, description="A learnt factor per level (FCOS, ATSS, CLQ).")


class NoQuality(Part):
    """Plain detectors: the localization score is 1."""

    method: Literal["none"] = "none"


class IouAwareQuality(Part):
    """IoU-aware RetinaNet: one logit per anchor on the last feature of the box tower."""

    method: Literal["iou_aware"] = "iou_aware"
    loss: Literal["bce", "l2"] = Field(default="bce", description="Loss on the predicted IoU (the paper's Table 2).")
    weight: NotNegative = Field(default=1.0, description="Weight of that loss; 0 turns it off.")
    detach_target: bool = Field(
        default=True,
        description="True: the paper as written. False: the gradient of the loss also moves the boxes through the "
        "target IoU, as the authors' code does.",
    )


class LaarQuality(Part):
    """LAAR: a tower of its own predicts how well the anchor lies on any object."""

    method: Literal["laar"] = "laar"
    loss: Literal["bce_pos", "focal_soft", "smooth_l1_pos"] = Field(
        default="bce_pos",
        description="Cross entropy on positives; soft focal loss on all anchors that are not ignored (use a weight of "
        "at most 0.1); smooth L1 on positives.",
    )
    weight: NotNegative = Field(default=1.0, description="Weight of that loss (the paper: all losses weigh 1).")


class CenternessQuality(Part):
    """FCOS: how central the anchor's centre lies in its object, on the box tower; a comparison."""

    method: Literal["centerness"] = "centerness"
    weight: NotNegative = Field(default=1.0, description="Weight of its cross entropy.")


class LqeQuality(Part):
    """CLQ: the IoU of the decoded box, on the box tower, or on the class tower when that is aligned."""

    method: Literal["lqe"] = "lqe"
    weight: NotNegative = Field(default=1.0, description="Weight of its cross entropy.")


def _method(value: Any) -> Any:
    """Recipes from before there was a choice name no method."""
    return value.get("method", "iou_aware") if isinstance(value, dict) else getattr(value, "method", None)


QualityBranch = Annotated[
    Annotated[NoQuality, Tag("none")]
    | Annotated[IouAwareQuality, Tag("iou_aware")]
    | Annotated[LaarQuality, Tag("laar")]
    | Annotated[CenternessQuality, Tag("centerness")]
    | Annotated[LqeQuality, Tag("lqe")],
    Discriminator(_method),
]


class ModelSpec(Part):
    """Architecture."""

    backbone: Backbone = Field(description="torchvision's name.")
    backbone_weights: str = Field(
        default="none", description="torchvision weights (`IMAGENET1K_V2`, `DEFAULT`, an enum name), a file, or `none`."
    )
    backbone_width: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Multiple of the channels of resnet18 and resnet34 (their stem keeps its 64), for experiments on "
        "small machines; below 1 there are no published weights.",
    )
    frozen: tuple[str, ...] = Field(default=(), description="Prefixes of backbone modules that are not trained.")
    frozen_statistics: bool = Field(default=False, description="Keep the backbone's batch-norm statistics fixed.")
    backbone_norm_epsilon: NotNegative | None = Field(
        default=None,
        description="Of the backbone's batch norms (torchvision's RetinaNet COCO_V1: 0); none: as the backbone has it.",
    )
    fpn_channels: Annotated[int, Field(ge=8, multiple_of=8)] = Field(
        default=256, description="Channels of FPN and towers."
    )
    pyramid_top: Literal["c5", "p5"] = Field(
        default="c5", description="What P6 is made from: RetinaNet C5, ATSS and CLQ P5."
    )
    tower_depth: Annotated[int, Field(ge=0, le=8)] = Field(default=4, description="3x3 convolutions per tower.")
    norm: Literal["none", "group", "batch"] = Field(default="none", description="Normalisation inside the towers.")
    align: bool = Field(
        default=False,
        description="CLQ: a deformable convolution, guided by the regressed distances, before the class tower.",
    )
    anchors: AnchorSpec = Field(default_factory=AnchorSpec)
    assigner: AssignerSpec = Field(default_factory=AssignerSpec)
    box: BoxSpec = Field(default_factory=BoxSpec)
    quality: QualityBranch = Field(default_factory=IouAwareQuality)

    @model_validator(mode="after")
    def _width_can_be_had(self) -> Self:
        if self.backbone_width != 1 and self.backbone not in NARROWABLE:
            raise ValueError(f"backbone_width needs one of {', '.join(NARROWABLE)}; the backbone is {self.backbone}")
        return self

    @model_validator(mode="after")
    def _one_box_to_align_with(self) -> Self:
        if self.align and self.anchors.per_location != 1:
            raise ValueError(
                f"align needs one anchor per location, whose box guides it; there are {self.anchors.per_location}"
            )
        return self


class LossSpec(Part):
    """Losses, with the values of RetinaNet where nothing is said."""

    classification: Literal["focal", "qfl", "vfl", "mal", "ia_bce"] = Field(
        default="focal",
        description="focal learns hard labels; the others the IoU of the decoded box at the object's class: quality "
        "focal loss, varifocal loss, matchability-aware loss, IoU-aware cross entropy.",
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
    smooth_l1_beta: Positive = Field(default=0.11, description="Where smooth L1 turns linear (mmdetection: 0.11).")
    box_weight: Positive = Field(default=1.0, description="Weight of the box loss.")
    box_weighting: Literal["uniform", "score", "centerness"] = Field(
        default="uniform",
        description="Weight of each positive in the box loss: all 1, its trained score (CLQ's code) or its centerness "
        "(ATSS).",
    )
    dfl_weight: NotNegative = Field(default=0.25, description="dfl: weight of the distribution's own loss.")

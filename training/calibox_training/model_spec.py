"""The model as a recipe names it: parts and their values. Defaults are IoU-aware RetinaNet's."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from calibox_training.anchor_spec import Anchors, AnchorSpec
from calibox_training.parts import Fraction, NotNegative, Part, Positive
from calibox_training.quality_spec import IouAwareQuality, QualityBranch

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
    "vgg16",
]
# Backbones that can be had with fewer channels.
NARROWABLE = ("resnet18", "resnet34", "vgg16")
# Maps that SSD's layers can give: conv4_3, fc7 and the extra ones.
SSD_LEVELS = {"ssd300": 6, "ssd512": 7}


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
    claims: Literal["every_best", "first_best"] = Field(
        default="every_best",
        description="max_iou: what an object claims when several anchors overlap it equally well: all of them "
        "(mmdetection), or the first (SSD).",
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


class BackboneSpec(Part):
    """What every detector here stands on."""

    backbone: Backbone = Field(description="torchvision's name.")
    backbone_weights: str = Field(
        default="none", description="torchvision weights (`IMAGENET1K_V2`, `DEFAULT`, an enum name), a file, or `none`."
    )
    backbone_width: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Multiple of the channels of resnet18 and resnet34 (their stem keeps its 64) and of vgg16 with "
        "SSD's extra layers (at least 8 each), for experiments on small machines; below 1 there are no published "
        "weights.",
    )
    frozen: tuple[str, ...] = Field(default=(), description="Prefixes of backbone modules that are not trained.")
    frozen_statistics: bool = Field(default=False, description="Keep the backbone's batch-norm statistics fixed.")
    backbone_norm_epsilon: NotNegative | None = Field(
        default=None,
        description="Of the backbone's batch norms (torchvision's RetinaNet COCO_V1: 0); none: as the backbone has it.",
    )
    normalisation: Literal["imagenet", "ssd"] = Field(
        default="imagenet",
        description="Mean and deviation of the input: ImageNet's, or those of torchvision's SSD and of VGG16's "
        "IMAGENET1K_FEATURES (a mean alone).",
    )

    @model_validator(mode="after")
    def _width_can_be_had(self) -> Self:
        if self.backbone_width != 1 and self.backbone not in NARROWABLE:
            raise ValueError(f"backbone_width needs one of {', '.join(NARROWABLE)}; the backbone is {self.backbone}")
        return self


class ModelSpec(BackboneSpec):
    """Architecture of a single-stage detector."""

    neck: Literal["fpn", "ssd"] = Field(
        default="fpn",
        description="Maps for the head: P3 to P7 of an FPN, or vgg16's conv4_3 and fc7 with extra layers.",
    )
    extra_layers: Literal["ssd300", "ssd512"] = Field(
        default="ssd300", description="neck ssd: 4 or 5 extra layers, of which as many are built as the anchors need."
    )
    head: Literal["towers", "single"] = Field(
        default="towers",
        description="Towers that all levels share, or one 3x3 convolution per level and branch (SSD).",
    )
    class_activation: Literal["sigmoid", "softmax"] = Field(
        default="sigmoid", description="softmax: one more class, the background, in column 0."
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
    anchors: Anchors = Field(default_factory=AnchorSpec)
    assigner: AssignerSpec = Field(default_factory=AssignerSpec)
    box: BoxSpec = Field(default_factory=BoxSpec)
    quality: QualityBranch = Field(default_factory=IouAwareQuality)

    @model_validator(mode="after")
    def _one_box_to_align_with(self) -> Self:
        if self.align and self.anchors.per_level[0] != 1:
            raise ValueError(
                f"align needs one anchor per location, whose box guides it; there are {self.anchors.per_level[0]}"
            )
        return self

    @model_validator(mode="after")
    def _ssd_is_whole(self) -> Self:
        ssd = self.neck == "ssd"
        if ssd != (self.backbone == "vgg16") or ssd != (self.anchors.kind == "ssd"):
            raise ValueError(
                "neck ssd, backbone vgg16 and anchors of kind ssd go together; "
                f"these are {self.neck}, {self.backbone} and {self.anchors.kind}"
            )
        levels, most = len(self.anchors.per_level), SSD_LEVELS[self.extra_layers]
        if ssd and levels > most:
            raise ValueError(f"the anchors have {levels} levels; {self.extra_layers} has {most} maps for them")
        if ssd and self.head != "single":
            raise ValueError("neck ssd has maps of different widths, which towers cannot share: write head: single")
        return self

    @model_validator(mode="after")
    def _single_convolutions_stand_alone(self) -> Self:
        if self.head == "single" and (self.align or self.box.level_scales):
            raise ValueError("align and box.level_scales belong to head towers; the head is single")
        if self.head != "single" and self.quality.method == "led":
            raise ValueError("quality led reads the class and box maps of each level's own: write head: single")
        return self

"""A two-stage detector as a recipe names it. Defaults are FPN's and Mask R-CNN's at their published size."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from calibox_training.iou_net.spec import Count, JitterSpec, PredictorSpec
from calibox_training.model_spec import BackboneSpec
from calibox_training.parts import Fraction, NotNegative, Part, Positive

LEVELS = 5  # P2 to P6


class ProposalSpec(Part):
    """What the region proposal network passes on."""

    before_nms: Count = Field(default=1000, description="Best anchors of each level that enter its NMS.")
    after_nms: Count = Field(default=1000, description="Proposals of an image.")
    before_nms_training: Count = Field(default=2000, description="The same in training.")
    after_nms_training: Count = Field(default=2000, description="The same in training.")
    iou: Fraction = Field(default=0.7, description="Overlap above this suppresses.")
    anchors_per_image: Count = Field(default=256, description="Anchors of an image that the loss is taken over.")


class RoiSpec(Part):
    """Which proposals teach the box head."""

    per_image: Count = Field(default=512, description="Proposals of an image that the loss is taken over.")
    positive_share: Fraction = Field(default=0.25, description="At most this share of them are objects.")
    positive_iou: Fraction = Field(
        default=0.5, description="From this IoU on a proposal is its object; below, background. Cascade: `cascade`."
    )


class CascadeSpec(Part):
    """Cascade R-CNN's three stages; source: arXiv 1712.00726, section 4, and the authors' code for the weights."""

    positive_iou: tuple[Fraction, Fraction, Fraction] = Field(default=(0.5, 0.6, 0.7), description="u of each stage.")
    weights: tuple[NotNegative, NotNegative, NotNegative] = Field(
        default=(1.0, 0.5, 0.25), description="Of each stage's losses."
    )


class IouBranchSpec(Part):
    """IoU-Net's branch beside the box head."""

    predictor: PredictorSpec = Field(default_factory=PredictorSpec)
    jitter: JitterSpec = Field(default_factory=JitterSpec)


class RcnnSpec(BackboneSpec):
    """Architecture of a two-stage detector on P2 to P6."""

    detector: Literal["faster", "cascade", "mask"] = Field(
        description="Faster R-CNN, Cascade R-CNN, or Mask R-CNN, which reads `segmentation` besides the boxes."
    )
    fpn_channels: Annotated[int, Field(ge=8, multiple_of=8)] = Field(default=256, description="Channels of the FPN.")
    norm: Literal["none", "group", "batch"] = Field(default="none", description="Normalisation inside the FPN.")
    anchor_sizes: tuple[Positive, ...] = Field(
        default=(32.0, 64.0, 128.0, 256.0, 512.0),
        min_length=LEVELS,
        max_length=LEVELS,
        description="Side of the anchors of P2 to P6, in pixels.",
    )
    anchor_ratios: tuple[Positive, ...] = Field(
        default=(0.5, 1.0, 2.0), min_length=1, description="Heights of the anchors over their widths."
    )
    proposals: ProposalSpec = Field(default_factory=ProposalSpec)
    rois: RoiSpec = Field(default_factory=RoiSpec)
    box_head_width: Count = Field(default=1024, description="Units of each of the box head's two layers.")
    mask_channels: Count = Field(default=256, description="mask: channels of the mask head's four convolutions.")
    cascade: CascadeSpec = Field(default_factory=CascadeSpec)
    iou_branch: IouBranchSpec | None = Field(
        default=None, description="Values of IoU-Net's branch, `{}` for the paper's; none: a plain detector."
    )

    @model_validator(mode="after")
    def _has_four_levels(self) -> Self:
        if self.backbone == "vgg16":
            raise ValueError("a two-stage detector reads P2 to P5, which vgg16 does not give: take a resnet")
        return self

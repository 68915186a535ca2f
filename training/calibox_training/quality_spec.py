"""Quality branches as a recipe names them."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from calibox_training.parts import NotNegative, Part


class QualityPart(Part):
    """What all branches have."""

    feature_detach: bool = Field(
        default=False,
        description="The branch reads features without a gradient: its loss calibrates and moves nothing else.",
    )

    @property
    def values(self) -> int:
        """Raw values per anchor."""
        return 1


class NoQuality(QualityPart):
    """Plain detectors: the localization score is 1."""

    method: Literal["none"] = "none"


class IouAwareQuality(QualityPart):
    """IoU-aware RetinaNet: one logit per anchor on the last feature of the box tower."""

    method: Literal["iou_aware"] = "iou_aware"
    loss: Literal["bce", "l2"] = Field(default="bce", description="Loss on the predicted IoU (the paper's Table 2).")
    weight: NotNegative = Field(default=1.0, description="Weight of that loss; 0 turns it off.")
    detach_target: bool = Field(
        default=True,
        description="True: the paper as written. False: the gradient of the loss also moves the boxes through the "
        "target IoU, as the authors' code does.",
    )


class LaarQuality(QualityPart):
    """LAAR: a tower of its own predicts how well the anchor lies on any object."""

    method: Literal["laar"] = "laar"
    loss: Literal["bce_pos", "focal_soft", "smooth_l1_pos"] = Field(
        default="bce_pos",
        description="Cross entropy on positives; soft focal loss on all anchors that are not ignored (use a weight of "
        "at most 0.1); smooth L1 on positives.",
    )
    weight: NotNegative = Field(default=1.0, description="Weight of that loss (the paper: all losses weigh 1).")


class CenternessQuality(QualityPart):
    """FCOS: how central the anchor's centre lies in its object, on the box tower; a comparison."""

    method: Literal["centerness"] = "centerness"
    weight: NotNegative = Field(default=1.0, description="Weight of its cross entropy.")


class LqeQuality(QualityPart):
    """CLQ: the IoU of the decoded box, on the box tower, or on the class tower when that is aligned."""

    method: Literal["lqe"] = "lqe"
    weight: NotNegative = Field(default=1.0, description="Weight of its cross entropy.")


class LedQuality(QualityPart):
    """LED: three overlaps of the decoded box, estimated coarse to fine. Switches: the rows of the paper's Table 2."""

    method: Literal["led"] = "led"
    weight: NotNegative = Field(default=1.0, description="Weight of its loss (second step: 1, third step: 1/3).")
    rich_features: bool = Field(
        default=True, description="Reads the class map, the box map and a wider context beside the level's own feature."
    )
    coarse_to_fine: bool = Field(
        default=True, description="Four value ranges and a value inside each; false: one value, regressed directly."
    )
    sharp_l2: bool = Field(default=True, description="Errors of at least 1 weigh more; false: L2.")
    channels: Annotated[int, Field(ge=1)] = Field(
        default=128,
        description="Made from the class map, and as many from the box map; twice as many from the level's feature, "
        "and from its context.",
    )

    @property
    def values(self) -> int:
        """IoD, IoG and IoU, each as four logits and four values, or as one value."""
        return 3 * 2 * 4 if self.coarse_to_fine else 3


# Branches whose loss has one element per anchor.
ElementwiseBranch = NoQuality | IouAwareQuality | LaarQuality | CenternessQuality | LqeQuality


def _method(value: Any) -> Any:
    """Recipes from before there was a choice name no method."""
    return value.get("method", "iou_aware") if isinstance(value, dict) else getattr(value, "method", None)


QualityBranch = Annotated[
    Annotated[NoQuality, Tag("none")]
    | Annotated[IouAwareQuality, Tag("iou_aware")]
    | Annotated[LaarQuality, Tag("laar")]
    | Annotated[CenternessQuality, Tag("centerness")]
    | Annotated[LqeQuality, Tag("lqe")]
    | Annotated[LedQuality, Tag("led")],
    Discriminator(_method),
]

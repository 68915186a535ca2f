"""A recipe of kind ``rcnn``: every value that makes a two-stage detector."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from calibox_core.fusion import Fusion, FusionName
from calibox_core.nms import NmsAttributes, OutScore
from calibox_training.data.module import training_sizes
from calibox_training.iou_net.systems import CANDIDATE_FLOOR
from calibox_training.rcnn.spec import RcnnSpec
from calibox_training.recipe import RunRecipe, parse_as

COARSEST_STRIDE = 32  # of the backbone; torchvision's anchors take whole strides for granted


class RcnnRecipe(RunRecipe):
    """Everything that makes a two-stage detector, apart from the place of the data."""

    kind: Literal["rcnn"] = Field(description="Tells it from a single-stage recipe, which has no kind.")
    model: RcnnSpec
    fusion: Fusion = Field(
        default=Fusion(name=FusionName.LOCALIZATION), description="Ranking: IoU-guided NMS; `classification`: standard."
    )
    nms: NmsAttributes = Field(
        default=NmsAttributes(out_score=OutScore.CLASSIFICATION_CLUSTERED, candidate_floor=CANDIDATE_FLOOR),
        description="IoU-Net, Algorithm 1, over boxes whose class score is above 0.05.",
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.model.iou_branch is None and self.fusion.name is not FusionName.CLASSIFICATION:
            raise ValueError(
                f"without model.iou_branch the fusion {self.fusion.name.value} has nothing to fuse: "
                "write fusion: {name: classification}"
            )
        for height, width in (*training_sizes(self), (self.input.height, self.input.width)):
            if height % COARSEST_STRIDE or width % COARSEST_STRIDE:
                raise ValueError(
                    f"an input of {height}x{width} pixels leaves parts of pixels in the maps: "
                    f"take multiples of {COARSEST_STRIDE}"
                )
        return self


def parse_rcnn(document: Any, *, source: str) -> RcnnRecipe:
    """Validates a document; ``source`` is named in errors.

    Raises:
        RecipeError: a key is unknown or missing, or a value is out of range.
    """
    return parse_as(RcnnRecipe, document, source=source)

"""manifest.json of a bundle: everything a server or a client must know about a model that is not in its graph."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StringConstraints,
    model_serializer,
    model_validator,
)

from calibox_core.fusion import Fusion
from calibox_core.letterbox import PAD_VALUE
from calibox_core.nms import NmsAttributes
from calibox_core.operating_point import CalibrationRecord, OperatingPoint
from calibox_core.parity import Parity
from calibox_core.precision import Accuracy, Precision
from calibox_core.score_map import ScoreMap

OPSET = 20

# One path segment, so that a name from a request can never leave the model repository.
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
ModelVersion = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassInfo(_Part):
    """One class; its position in the list is the 0-based label of the graph."""

    name: str = Field(min_length=1, description="Name that answers carry as `label`.")
    category_id: int = Field(description="Id in the data set's annotations; answers carry it as `label_id`.")


class InputSpec(_Part):
    """The image tensor `images`, uint8 `[B, height, width, 3]`, RGB, letterboxed."""

    height: int = Field(ge=32, le=8192, description="Rows of the input, in pixels.")
    width: int = Field(ge=32, le=8192, description="Columns of the input, in pixels.")
    letterbox: Literal["centred"] = Field(
        default="centred", description="scale = min(W/w, H/h), centred, sizes rounded half up, bilinear."
    )
    pad_value: int = Field(default=PAD_VALUE, ge=0, le=255, description="Grey level around the image.")


class Thresholds(_Part):
    """Defaults for requests that name none."""

    score: Probability = Field(default=0.3, description="Reported scores of at least this are returned (0..1).")
    iou: Probability = Field(default=0.5, description="Overlap above this suppresses (IoU, 0..1).")


class QualitySpec(_Part):
    """What the localization score is."""

    method: str = Field(description="How it was trained, for example `iou_aware`.")
    target: str = Field(default="iou", description="Quantity it predicts for the kept box, 0..1.")
    per_class: bool = Field(default=False, description="Whether q has one value per class instead of one per anchor.")
    boxes: int | None = Field(
        default=None,
        ge=1,
        description="Boxes of an image that it is predicted for, the best by classification score; null: all.",
    )


class Refinement(_Part):
    """How kept boxes climb their predicted IoU (IoU-Net, arXiv 1807.11590, Algorithm 2); all but the steps is fixed."""

    steps: int = Field(ge=1, description="Most steps of a request.")
    default_steps: int = Field(default=0, ge=0, description="Steps of requests that name none; at most `steps`.")
    step_size: float = Field(
        gt=0, allow_inf_nan=False, description="Box sides moved per unit of slope of 2 IoU - 1 and per side."
    )
    early_stop: float = Field(ge=0, allow_inf_nan=False, description="A change of IoU below this ends a box's steps.")
    tolerance: float = Field(
        le=0, allow_inf_nan=False, description="An IoU that changes by less than this ends a box's steps."
    )
    keep_worse: bool = Field(
        default=False, description="Whether a box stays where its last step took it, instead of where it was best."
    )

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        if self.default_steps > self.steps:
            raise ValueError(f"default_steps is {self.default_steps}, more than the {self.steps} that there are")
        return self


class DatasetInfo(_Part):
    """The data a model was trained and measured on."""

    name: str = Field(description="Name of the data set.")
    license: str = Field(description="Licence of its images and annotations.")
    attribution: str = Field(default="", description="Copyright line that must accompany its images.")
    url: str = Field(default="", description="Where it comes from.")
    train_images: int = Field(ge=0, description="Images trained on.")
    val_images: int = Field(ge=0, description="Images of the validation split.")
    sha256: Sha256 = Field(description="Hash over both annotation files, so that the same data can be recognised.")


class Provenance(_Part):
    """How to make this model again."""

    recipe_name: str = Field(description="File name of the recipe, without its ending.")
    recipe: dict[str, Any] = Field(description="The whole recipe, every default written out.")
    commit: str = Field(description="Git commit of the code that trained it; `-dirty` when there were local changes.")
    seed: int = Field(description="Seed of weights, order and augmentation.")
    calibox_version: str = Field(description="Version of calibox that exported it.")
    torch_version: str = Field(description="Version of torch that exported it.")
    iou_net: dict[str, Any] | None = Field(
        default=None, description="The separate quality network: its form, commit and training; null without one."
    )
    created: datetime = Field(description="Time of the export, UTC.")


class LoweredFrom(_Part):
    """The bundle in float32 that one of lower precision was made from."""

    version: ModelVersion = Field(description="Its version; the name is the same.")
    model_sha256: Sha256 = Field(description="Of its model.onnx.")
    accuracy: Accuracy = Field(description="This bundle held against it.")


# Of schema 2, which a bundle has as soon as one of them says something; readers of schema 1 know none of them.
_SINCE_2 = ("operating_points", "calibration", "parity")


class Manifest(_Part):
    """Schema of manifest.json, versions 1 and 2. Scores, AP and thresholds are 0..1, boxes are in pixels."""

    schema_version: Literal[1, 2] = Field(
        default=1, description="Version of this schema: 2 where operating points, a calibration or parity are told."
    )
    name: ModelName = Field(description="Name of the model: the folder that holds its versions.")
    version: ModelVersion = Field(description="Version of the model, a whole number from 1 as in other servers.")
    description: str = Field(default="", description="One sentence about the model.")
    classes: tuple[ClassInfo, ...] = Field(min_length=1, description="Classes in the order of the graph's labels.")
    input: InputSpec = Field(description="The image tensor.")
    opset: int = Field(default=OPSET, description="ONNX opset of the graph.")
    fusion: Fusion = Field(description="Ranking of requests that name none.")
    thresholds: Thresholds = Field(default_factory=Thresholds, description="Thresholds of requests that name none.")
    nms: NmsAttributes = Field(description="What is fixed in the graph's CalibratedNMS.")
    quality: QualitySpec = Field(description="The localization score.")
    can_refine: bool = Field(default=False, description="Whether `refine_steps` moves boxes (IoU-Net).")
    refinement: Refinement | None = Field(default=None, description="How; null where boxes are not moved.")
    score_map: ScoreMap = Field(
        default_factory=ScoreMap,
        description="Strictly increasing map of the reported score; its inverse applies to score thresholds.",
    )
    operating_points: tuple[OperatingPoint, ...] = Field(
        default=(), description="Rankings with thresholds that requests may name."
    )
    calibration: CalibrationRecord | None = Field(
        default=None, description="What `calibox calibrate` chose and measured; null where it was not run."
    )
    dataset: DatasetInfo = Field(description="Training and validation data.")
    provenance: Provenance = Field(description="How the model was made.")
    precision: Precision = Field(default="fp32", description="Of the layers; post-processing and results are float32.")
    lowered_from: LoweredFrom | None = Field(
        default=None, description="What `calibox quantize` made it from; null where it was exported in float32."
    )
    measured: dict[str, dict[str, float | None]] = Field(
        default_factory=dict,
        description="Metrics per split (AP, AP50, ... in 0..1; null where the split has nothing to measure).",
    )
    parity: Parity | None = Field(
        default=None, description="What `calibox verify --chain` measured; null where it was not run."
    )
    example: FileName | None = Field(
        default=None, description="A picture inside the bundle to try the model on; null where there is none."
    )
    files: dict[str, Sha256] = Field(default_factory=dict, description="sha256 of every other file of the bundle.")

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> Self:
        for what in ("name", "category_id"):
            values = [getattr(c, what) for c in self.classes]
            if len(set(values)) != len(values):
                raise ValueError(f"classes repeat a {what}: {sorted({v for v in values if values.count(v) > 1})}")
        return self

    @model_validator(mode="after")
    def _refinement_is_described(self) -> Self:
        if self.can_refine != (self.refinement is not None):
            raise ValueError("can_refine and refinement contradict each other: `refinement` says how, null where not")
        return self

    @model_validator(mode="after")
    def _points_can_be_named(self) -> Self:
        names = [point.name for point in self.operating_points]
        if len(set(names)) != len(names):
            raise ValueError(f"operating_points repeat a name: {', '.join(sorted(names))}")
        for point in self.operating_points:
            if strange := sorted(set(point.class_thresholds) - set(self.label_names)):
                raise ValueError(f"the operating point {point.name} has thresholds of unknown classes: {strange}")
        if self.schema_version == 1 and any(getattr(self, name) for name in _SINCE_2):
            raise ValueError(f"{', '.join(_SINCE_2)} belong to schema_version 2, and this is 1")
        return self

    @model_serializer(mode="wrap")
    def _without_what_schema_1_lacks(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document: dict[str, Any] = whole(self)
        return {name: value for name, value in document.items() if name not in _SINCE_2 or value}

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}/{self.version}"

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names by 0-based label."""
        return tuple(c.name for c in self.classes)

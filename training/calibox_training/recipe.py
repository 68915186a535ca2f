"""A recipe: every value that makes a model, as data. Recipes are YAML files; a wrong key is named when one is read."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from calibox_core.errors import CaliboxError
from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import InputSpec, ModelName, QualitySpec, Thresholds
from calibox_core.nms import NmsAttributes

BUILTIN_RECIPES = Path(__file__).parent / "recipes"

Backbone = Literal[
    "resnet18", "resnet34", "resnet50", "resnet101", "regnet_y_400mf", "regnet_y_800mf", "mobilenet_v3_large"
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RecipeError(CaliboxError):
    """A recipe cannot be read; the text names file, key and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Part):
    """The data set that the recipe was written for; `--data` names another place."""

    name: str = Field(description="Name of the folder below CALIBOX_DATA.")
    license: str = Field(default="unknown", description="Licence of the data.")
    attribution: str = Field(default="", description="Copyright line.")
    url: str = Field(default="", description="Origin.")


class Augmentation(_Part):
    """Training-time transforms (torchvision.transforms.v2), in the order in which they are applied."""

    zoom_out: Fraction = Field(default=0.0, description="Probability of placing the image on a larger canvas.")
    zoom_out_max: Annotated[float, Field(ge=1)] = Field(default=2.0, description="Largest canvas, in image sides.")
    crop: Fraction = Field(default=0.0, description="Probability of a crop that keeps some overlap (SSD's).")
    crop_min_scale: Annotated[float, Field(gt=0, le=1)] = Field(default=0.4, description="Smallest crop, in sides.")
    flip_horizontal: Fraction = Field(default=0.5, description="Probability.")
    flip_vertical: Fraction = Field(default=0.0, description="Probability; only where up and down mean nothing.")
    colour: Fraction = Field(default=0.0, description="Probability of a jitter of brightness, contrast and colour.")


class AnchorSpec(_Part):
    """Anchors of a level: base_size * stride * scale, for each aspect ratio (height / width)."""

    base_size: Positive = Field(default=4.0, description="Side in strides (RetinaNet: 4).")
    scales: tuple[Positive, ...] = Field(
        default=(1.0, 2 ** (1 / 3), 2 ** (2 / 3)),
        min_length=1,
        description="Multiples of the base (RetinaNet: octaves in thirds).",
    )
    ratios: tuple[Positive, ...] = Field(default=(0.5, 1.0, 2.0), min_length=1, description="Height over width.")
    offset: Fraction = Field(default=0.5, description="Position of the first centre, in strides.")


class AssignerSpec(_Part):
    """Max-IoU assignment (RetinaNet)."""

    positive_iou: Fraction = Field(default=0.5, description="An anchor with at least this IoU is positive.")
    negative_iou: Fraction = Field(default=0.4, description="Below this it is background; between, it is ignored.")
    min_positive_iou: Fraction = Field(
        default=0.0, description="Every object claims its best anchors when their IoU is above this (mmdetection: 0)."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.negative_iou > self.positive_iou:
            raise ValueError(f"negative_iou {self.negative_iou} is above positive_iou {self.positive_iou}")
        return self


class QualityBranch(_Part):
    """The branch that predicts localization quality."""

    method: Literal["iou_aware"] = Field(default="iou_aware", description="IoU-aware RetinaNet: one logit per anchor.")
    loss: Literal["bce", "l2"] = Field(default="bce", description="Loss on the predicted IoU (the paper's Table 2).")
    weight: Annotated[float, Field(ge=0)] = Field(default=1.0, description="Weight of that loss; 0 turns it off.")
    detach_target: bool = Field(
        default=True,
        description="True: the paper as written. False: the gradient of the loss also moves the boxes through the "
        "target IoU, as the authors' code does.",
    )


class ModelSpec(_Part):
    """Architecture."""

    backbone: Backbone = Field(description="torchvision's name.")
    backbone_weights: str = Field(
        default="none", description="torchvision weights (`IMAGENET1K_V2`, `DEFAULT`, an enum name), a file, or `none`."
    )
    frozen: tuple[str, ...] = Field(default=(), description="Prefixes of backbone modules that are not trained.")
    frozen_statistics: bool = Field(default=False, description="Keep the backbone's batch-norm statistics fixed.")
    fpn_channels: Annotated[int, Field(ge=8, multiple_of=8)] = Field(
        default=256, description="Channels of FPN and towers."
    )
    tower_depth: Annotated[int, Field(ge=0, le=8)] = Field(default=4, description="3x3 convolutions per tower.")
    norm: Literal["none", "group", "batch"] = Field(default="none", description="Normalisation inside the towers.")
    anchors: AnchorSpec = Field(default_factory=AnchorSpec)
    assigner: AssignerSpec = Field(default_factory=AssignerSpec)
    quality: QualityBranch = Field(default_factory=QualityBranch)


class LossSpec(_Part):
    """Losses of RetinaNet with their published values."""

    focal_alpha: Fraction = Field(default=0.25, description="Balance of positives.")
    focal_gamma: Annotated[float, Field(ge=0)] = Field(default=2.0, description="Focusing exponent.")
    smooth_l1_beta: Positive = Field(default=0.11, description="Where smooth L1 turns linear (mmdetection: 0.11).")
    box_weight: Positive = Field(default=1.0, description="Weight of the box loss.")


class Schedule(_Part):
    """Optimisation."""

    optimizer: Literal["sgd", "adamw"] = Field(default="sgd")
    learning_rate: Positive = Field(description="At the recipe's batch size; scaled by nothing.")
    momentum: Fraction = Field(default=0.9, description="SGD only.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=1e-4)
    epochs: Annotated[int, Field(ge=1)] = Field(description="Passes over the training split.")
    batch_size: Annotated[int, Field(ge=1)] = Field(description="Images per optimiser step and process.")
    warmup_iterations: Annotated[int, Field(ge=0)] = Field(default=500, description="Linear from warmup_factor.")
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = Field(default=0.001)
    decay: Literal["cosine", "step"] = Field(default="step")
    milestones: tuple[int, ...] = Field(default=(8, 11), description="Epochs after which `step` divides by ten.")
    clip_norm: Annotated[float, Field(ge=0)] = Field(default=35.0, description="Gradient norm limit; 0 for none.")
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="Weight averaging; 0 for none.")
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = Field(default="32-true", description="Lightning's name.")
    validate_every: Annotated[int, Field(ge=1)] = Field(default=1, description="Epochs between validations.")


class Recipe(_Part):
    """Everything that makes a model, apart from the place of the data."""

    name: ModelName = Field(description="Name of the model in its bundle.")
    description: str = Field(default="", description="One sentence for the manifest.")
    seed: int = Field(default=0, ge=0)
    data: DataSource
    input: InputSpec
    augmentation: Augmentation = Field(default_factory=Augmentation)
    model: ModelSpec
    loss: LossSpec = Field(default_factory=LossSpec)
    schedule: Schedule
    fusion: Fusion = Field(default=Fusion(name=FusionName.GEOMETRIC, alpha=0.5), description="Ranking (paper, eq. 5).")
    per_level_top_k: Annotated[int, Field(ge=1)] = Field(default=1000, description="Anchors per level by key.")
    nms: NmsAttributes = Field(default_factory=NmsAttributes)
    thresholds: Thresholds = Field(default_factory=Thresholds)

    @property
    def quality(self) -> QualitySpec:
        """What the manifest says of the localization score."""
        return QualitySpec(method=self.model.quality.method, target="iou", per_class=False)


def load_recipe(name_or_path: str) -> Recipe:
    """A recipe by file, or by the name of one that ships with the package.

    Raises:
        RecipeError: not found, not YAML, or a key or value is wrong; the text lists each.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = BUILTIN_RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in BUILTIN_RECIPES.glob("*.yaml")))
        raise RecipeError(f"no recipe {name_or_path}: name a YAML file or one of {known}")
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error
    return parse_recipe(document, source=str(path))


def parse_recipe(document: Any, *, source: str) -> Recipe:
    """Validates a document; ``source`` is named in errors.

    Raises:
        RecipeError: a key is unknown or missing, or a value is out of range.
    """
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        wrong = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{source} is not a valid recipe:\n{wrong}") from error


def with_overrides(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """A recipe with some values replaced; keys are dotted paths, None leaves a value as it is.

    Raises:
        RecipeError: a value is out of range.
    """
    document = recipe.model_dump(mode="json")
    for path, value in values.items():
        if value is None:
            continue
        *parents, last = path.split(".")
        part = document
        for parent in parents:
            part = part[parent]
        part[last] = value
    return parse_recipe(document, source="the recipe with these options")

"""A recipe: every value that makes a model, as data. Recipes are YAML files; a wrong key is named when one is read."""

from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import yaml
from pydantic import Field, ValidationError, model_validator

from calibox_core.errors import CaliboxError
from calibox_core.fusion import Fusion, FusionName
from calibox_core.layouts import DataLayout
from calibox_core.manifest import InputSpec, ModelName, QualitySpec, Thresholds
from calibox_core.nms import NmsAttributes
from calibox_training.loss_spec import LossSpec
from calibox_training.model_spec import ModelSpec
from calibox_training.parts import Part
from calibox_training.pyramid import map_shapes
from calibox_training.training_spec import Augmentation, Schedule, Stage

BUILTIN_RECIPES = Path(__file__).parent / "recipes"
# Quantity that a quality branch predicts.
QUALITY_TARGETS = {
    "none": "none",
    "iou_aware": "iou",
    "lqe": "iou",
    "laar": "anchor_iou",
    "centerness": "centerness",
    "led": "iou",
}
# What belongs to a recipe as a whole and not to one of its stages.
_OF_THE_WHOLE = ("name", "data", "stages")


class RecipeError(CaliboxError):
    """A recipe cannot be read; the text names file, key and what was expected."""


class DataSource(DataLayout):
    """The data set that the recipe was written for; `--data` names another place."""

    name: str = Field(description="Name of the folder below CALIBOX_DATA.")
    license: str = Field(default="unknown", description="Licence of the data.")
    attribution: str = Field(default="", description="Copyright line.")
    url: str = Field(default="", description="Origin.")


class RunRecipe(Part):
    """What the recipes of all kinds of detectors have in common."""

    name: ModelName = Field(description="Name of the model in its bundle.")
    description: str = Field(default="", description="One sentence for the manifest.")
    seed: int = Field(default=0, ge=0)
    data: DataSource
    input: InputSpec
    augmentation: Augmentation = Field(default_factory=Augmentation)
    schedule: Schedule
    fusion: Fusion = Field(
        default=Fusion(name=FusionName.GEOMETRIC, alpha=0.5), description="Ranking (IoU-aware RetinaNet, eq. 5)."
    )
    nms: NmsAttributes = Field(default_factory=NmsAttributes)
    thresholds: Thresholds = Field(default_factory=Thresholds)


AnyRecipe = TypeVar("AnyRecipe", bound=RunRecipe)


class Recipe(RunRecipe):
    """Everything that makes a single-stage detector, apart from the place of the data."""

    model: ModelSpec
    loss: LossSpec = Field(default_factory=LossSpec)
    per_level_top_k: Annotated[int, Field(ge=1)] = Field(default=1000, description="Anchors per level by key.")
    stages: tuple[Stage, ...] = Field(default=(), description="Trainings in a row; none: one, by the values above.")

    @property
    def quality(self) -> QualitySpec:
        """What the manifest says of the localization score."""
        method = self.model.quality.method
        return QualitySpec(method=method, target=QUALITY_TARGETS[method], per_class=False)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        method = self.model.quality.method
        if method == "none" and self.fusion.name is not FusionName.CLASSIFICATION:
            raise ValueError(
                f"quality method none leaves the fusion {self.fusion.name.value} nothing to fuse: "
                "write fusion: {name: classification}"
            )
        if self.loss.joint_alpha and (method == "none" or self.loss.classification in ("focal", "softmax")):
            raise ValueError(
                f"loss.joint_alpha {self.loss.joint_alpha:g} needs a quality branch (method: {method}) and one of the "
                f"losses qfl, vfl, mal, ia_bce (classification: {self.loss.classification})"
            )
        if (self.loss.classification == "softmax") != (self.model.class_activation == "softmax"):
            raise ValueError(
                "loss.classification softmax and model.class_activation softmax go together; "
                f"these are {self.loss.classification} and {self.model.class_activation}"
            )
        if self.loss.classification == "softmax" and self.loss.box_weighting == "score":
            raise ValueError("loss.box_weighting score needs sigmoid scores; the classification loss is softmax")
        if self.model.box.coding == "dfl" and self.loss.box != "giou":
            raise ValueError("box coding dfl learns distances: write loss: {box: giou}")
        return self

    @model_validator(mode="after")
    def _inputs_fit_the_maps(self) -> Self:
        for height, width in ((self.input.height, self.input.width), *self.augmentation.sizes):
            map_shapes(self.model, height, width)  # a ValueError where the layers leave nothing
        return self

    @model_validator(mode="after")
    def _stages_are_recipes(self) -> Self:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"two stages have the same name: {', '.join(names)}")
        try:
            for stage in self.stages:
                recipe_of_stage(self, stage)
        except RecipeError as error:
            raise ValueError(str(error)) from error
        return self


def load_recipe(name_or_path: str) -> Recipe:
    """A single-stage recipe by file, or by the name of one that ships with the package.

    Raises:
        RecipeError: not found, not YAML, or a key or value is wrong; the text lists each.
    """
    document, source = read_document(name_or_path)
    return parse_recipe(document, source=source)


def read_document(name_or_path: str) -> tuple[Any, str]:
    """What the YAML of a recipe of any kind says, and what to call it in errors.

    Raises:
        RecipeError: not found, or not YAML.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = BUILTIN_RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in BUILTIN_RECIPES.glob("*.yaml")))
        raise RecipeError(f"no recipe {name_or_path}: name a YAML file or one of {known}")
    try:
        return yaml.safe_load(path.read_text()), str(path)
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} cannot be read as YAML: {error}") from error


def parse_recipe(document: Any, *, source: str) -> Recipe:
    """A single-stage recipe from a document; ``source`` is named in errors.

    Raises:
        RecipeError: see `parse_as`; or the document is of another kind.
    """
    kind = kind_of(document)
    if kind is not None:
        raise RecipeError(
            f"{source} is of kind {kind}, and a single-stage recipe, which has no kind, is needed here; "
            "`calibox train` takes either"
        )
    return parse_as(Recipe, document, source=source)


def kind_of(document: Any) -> Any:
    """What a recipe's document says of its kind; None for single-stage detectors, which have none."""
    return document.get("kind") if isinstance(document, dict) else None


def parse_as(kind: type[AnyRecipe], document: Any, *, source: str) -> AnyRecipe:
    """Validates a document; ``source`` is named in errors.

    Raises:
        RecipeError: a key is unknown or missing, or a value is out of range.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        wrong = "\n".join(f"  {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{source} is not a valid recipe:\n{wrong}") from error


def with_overrides(recipe: AnyRecipe, values: dict[str, Any]) -> AnyRecipe:
    """A recipe with some values replaced, in every stage; keys are dotted paths, None leaves a value as it is.

    Raises:
        RecipeError: a path leads nowhere, or a value is out of range.
    """
    document = recipe.model_dump(mode="json")
    given = {path: value for path, value in values.items() if value is not None}
    for path, value in given.items():
        _replace(document, path, value)
    if "stages" not in given:
        for stage in document.get("stages", ()):
            stage["set"] = _last_of_all(stage["set"], given)
    return parse_as(type(recipe), document, source="the recipe with these options")


def recipe_of_stage(recipe: Recipe, stage: Stage) -> Recipe:
    """What one stage trains by: the recipe with the stage's values, and without stages.

    Raises:
        RecipeError: a path leads nowhere or to what a stage cannot change, or a value is out of range.
    """
    document = recipe.model_dump(mode="json", exclude={"stages"})
    for path, value in stage.set.items():
        if _part_of(path) in _OF_THE_WHOLE:
            raise RecipeError(f"stage {stage.name} sets {path}, which is the same in all stages")
        _replace(document, path, value)
    return parse_recipe(document, source=f"stage {stage.name}")


def _last_of_all(stage: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A stage's values with others after them, so that those win."""
    added = {path: value for path, value in given.items() if _part_of(path) not in _OF_THE_WHOLE}
    return {path: value for path, value in stage.items() if path not in added} | added


def _replace(document: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    part: Any = document
    for parent in parents:
        part = part.get(parent)
        if not isinstance(part, dict):
            raise RecipeError(f"no value of a recipe is at {path}: {parent} has no parts")
    part[last] = deepcopy(value)  # a later path may change a part of it


def _part_of(path: str) -> str:
    return path.split(".", maxsplit=1)[0]

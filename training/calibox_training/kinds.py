"""Recipes of every kind, and the training that each asks for."""

from pathlib import Path
from typing import Any

from calibox_core.dataset import DataFolder
from calibox_training.rcnn.recipe import RcnnRecipe, parse_rcnn
from calibox_training.rcnn.train import train_rcnn
from calibox_training.recipe import Recipe, RecipeError, kind_of, parse_recipe, read_document
from calibox_training.stages import StageRun, stage_runs, train_by_stages
from calibox_training.train import RunSettings, TrainingResult

KINDS = ("rcnn",)  # besides single-stage detectors, whose recipes have none


def load_any(name_or_path: str) -> Recipe | RcnnRecipe:
    """A recipe of any kind by file, or by the name of one that ships with the package.

    Raises:
        RecipeError: not found, not YAML, of an unknown kind, or a key or value is wrong; the text lists each.
    """
    document, source = read_document(name_or_path)
    return parse_any(document, source=source)


def parse_any(document: Any, *, source: str) -> Recipe | RcnnRecipe:
    """Validates a document; ``source`` is named in errors.

    Raises:
        RecipeError: of an unknown kind, or a key or value is wrong; the text lists each.
    """
    kind = kind_of(document)
    if kind is None:
        return parse_recipe(document, source=source)
    if kind not in KINDS:
        raise RecipeError(
            f"{source} is of kind {kind}, which does not exist: write kind: {', '.join(KINDS)} for a two-stage "
            "detector, and no kind for a single-stage one"
        )
    return parse_rcnn(document, source=source)


def stages_of(recipe: Recipe | RcnnRecipe, output: Path) -> list[StageRun]:
    """The runs that a recipe asks for below ``output``; none without stages.

    Raises:
        RunError: see `stage_runs`.
    """
    return stage_runs(recipe, output) if isinstance(recipe, Recipe) else []


def train_any(recipe: Recipe | RcnnRecipe, folder: DataFolder, settings: RunSettings) -> TrainingResult:
    """`train_by_stages`, or `train_rcnn` for a two-stage detector; see there."""
    if isinstance(recipe, RcnnRecipe):
        return train_rcnn(recipe, folder, settings)
    return train_by_stages(recipe, folder, settings)

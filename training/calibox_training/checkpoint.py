"""What a training leaves behind for export: weights, recipe, classes, data, metrics. No code is unpickled."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calibox_core.errors import CaliboxError
from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_training.models.detector import Detector
from calibox_training.recipe import Recipe, RunRecipe, parse_recipe

METADATA_KEY = "calibox"
DETECTOR_PREFIX = "detector."


class CheckpointError(CaliboxError):
    """A checkpoint cannot be read or was not written by `calibox train`."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A detector in eval mode and everything its manifest needs."""

    detector: Detector
    recipe: Recipe
    classes: tuple[ClassInfo, ...]
    dataset: DatasetInfo
    commit: str
    metrics: dict[str, float | None]


def metadata(
    recipe: RunRecipe,
    classes: tuple[ClassInfo, ...],
    dataset: DatasetInfo,
    commit: str,
    metrics: dict[str, float | None],
) -> dict[str, Any]:
    """The plain values that a checkpoint carries under `METADATA_KEY`."""
    return {
        "recipe": recipe.model_dump(mode="json"),
        "classes": [c.model_dump(mode="json") for c in classes],
        "dataset": dataset.model_dump(mode="json"),
        "commit": commit,
        "metrics": metrics,
    }


def load_checkpoint(path: Path) -> TrainedModel:
    """Reads a checkpoint that `calibox train` wrote.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    saved = _read(path)
    facts = saved[METADATA_KEY]
    recipe = parse_recipe(facts["recipe"], source=f"the recipe in {path}")
    classes = tuple(ClassInfo.model_validate(c) for c in facts["classes"])
    # The weights follow from the file itself; the backbone's starting point is not needed again.
    spec = recipe.model.model_copy(update={"backbone_weights": "none"})
    detector = Detector(spec, classes=len(classes))
    fill(detector, detector_weights(saved), path)
    return TrainedModel(
        detector=detector.eval(),
        recipe=recipe,
        classes=classes,
        dataset=DatasetInfo.model_validate(facts["dataset"]),
        commit=facts["commit"],
        metrics=facts["metrics"],
    )


def detector_weights(saved: dict[str, Any]) -> dict[str, Tensor]:
    """A checkpoint's weights in the detector's own names."""
    named = saved["state_dict"].items()
    return {key.removeprefix(DETECTOR_PREFIX): value for key, value in named if key.startswith(DETECTOR_PREFIX)}


def fill(detector: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Loads the weights that a checkpoint's recipe asks for, all of them.

    Raises:
        CheckpointError: some are missing, unknown or of another shape.
    """
    try:
        detector.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {path} do not fit its recipe: {error}") from error


def stored_recipe(path: Path) -> Recipe:
    """The recipe that a checkpoint was trained by, as today's schema reads it.

    Raises:
        CheckpointError: see `load_checkpoint`.
    """
    return parse_recipe(_read(path)[METADATA_KEY]["recipe"], source=f"the recipe in {path}")


def _read(path: Path) -> dict[str, Any]:
    return read_saved(path, METADATA_KEY, otherwise="was not written by `calibox train`: it carries no recipe")


def read_saved(path: Path, key: str, *, otherwise: str) -> dict[str, Any]:
    """Weights and plain values of a file that carries ``key``; no code is unpickled.

    Raises:
        CheckpointError: it cannot be read, or has no such key; the text then says ``otherwise``.
    """
    try:
        saved: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what its readers raise: pickle, zip, OS and runtime errors
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(saved, dict) or key not in saved:
        raise CheckpointError(f"{path} {otherwise}")
    return saved


def current_commit() -> str:
    """The git commit of the code that runs, with `-dirty` after local changes; `unknown` outside a checkout."""
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()

"""A recipe's stages as runs in a row, which the same command takes up again wherever it was stopped."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_only

from calibox_core.dataset import DataFolder
from calibox_training.checkpoint import stored_recipe
from calibox_training.machine import RunError
from calibox_training.recipe import Recipe, recipe_of_stage
from calibox_training.run_checkpoints import LAST_CHECKPOINT
from calibox_training.train import METRICS, RunSettings, TrainingResult, train

State = Literal["done", "begun", "new"]


@dataclass(frozen=True, slots=True)
class StageRun:
    """One stage and its folder."""

    name: str
    recipe: Recipe
    output: Path

    @property
    def checkpoint(self) -> Path:
        """Where its weights are or will be."""
        return _checkpoint(self.output)

    @property
    def state(self) -> State:
        """A stage that came to its end has metrics; one that was stopped has at most a checkpoint."""
        if not self.checkpoint.exists():
            return "new"
        return "done" if (self.output / METRICS).exists() else "begun"


def _checkpoint(output: Path) -> Path:
    return output / "checkpoints" / LAST_CHECKPOINT


def stage_runs(recipe: Recipe, output: Path) -> list[StageRun]:
    """The runs that ``recipe`` asks for below ``output``; none for a recipe without stages.

    Raises:
        RunError: ``output`` holds runs of another recipe, or a stage without those before it.
    """
    runs = [StageRun(stage.name, recipe_of_stage(recipe, stage), output / stage.name) for stage in recipe.stages]
    for before, run in zip([None, *runs], runs, strict=False):
        if run.state != "new":
            _require_same_recipe(run)
            if before is not None and before.state != "done":
                raise RunError(
                    f"{output} holds the stage {run.name}, but {before.name} before it has not come to its end; "
                    "choose another --output"
                )
    if _checkpoint(output).exists() and any(run.state != "done" for run in runs):
        raise RunError(f"{output} holds a run without these stages; choose another --output")
    return runs


def train_by_stages(recipe: Recipe, folder: DataFolder, settings: RunSettings) -> TrainingResult:
    """Runs what is left of a recipe's stages; a recipe without stages is one run.

    A stage starts from the weights of the one before, the first from ``settings.init_from``. It is a run of its own in
    ``<output>/<name>/``. Stages that came to their end are left alone, one that was stopped goes on from its
    checkpoint. After the last, ``<output>`` holds its checkpoint and metrics where those of a single run would be.

    Raises:
        RunError: see `train` and `stage_runs`; or the settings are for single runs only.
    """
    if not recipe.stages:
        return train(recipe, folder, settings)
    _refuse(recipe, settings)
    runs = stage_runs(recipe, settings.output)
    start = settings.init_from
    for run in runs:
        result = _ended(run, folder, replace(settings, output=run.output), start)
        start = run.checkpoint
    # The last stage's files become those of the whole.
    _copy(result.checkpoint, _checkpoint(settings.output))
    _copy(runs[-1].output / METRICS, settings.output / METRICS)
    return replace(result, checkpoint=_checkpoint(settings.output))


def _ended(run: StageRun, folder: DataFolder, settings: RunSettings, start: Path | None) -> TrainingResult:
    """A stage at its end, whatever of it there is already."""
    match run.state:
        case "new":
            return train(run.recipe, folder, replace(settings, init_from=start))
        case "begun":
            return train(run.recipe, folder, replace(settings, init_from=None, resume=run.checkpoint))
        case "done":
            return TrainingResult(run.checkpoint, json.loads((run.output / METRICS).read_text()))


def _refuse(recipe: Recipe, settings: RunSettings) -> None:
    stages = f"{recipe.name} has the stages {', '.join(stage.name for stage in recipe.stages)}"
    if settings.max_steps != -1:
        raise RunError(f"{stages}, and --max-steps would cut them all short; for a short trial give --epochs")
    if settings.resume is not None:
        raise RunError(f"{stages}; the same command without --resume goes on where they were stopped")


def _require_same_recipe(run: StageRun) -> None:
    stored, wanted = (_flat(r.model_dump(mode="json")) for r in (stored_recipe(run.checkpoint), run.recipe))
    differ = sorted(path for path in stored | wanted if stored.get(path) != wanted.get(path))
    if differ:
        raise RunError(
            f"{run.output} was trained by another recipe ({', '.join(differ[:3])}{', ...' if differ[3:] else ''}); "
            "choose another --output"
        )


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted path."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


@rank_zero_only
def _copy(source: Path, target: Path) -> None:
    """A whole file or none, whenever the process ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, scratch)
    scratch.replace(target)

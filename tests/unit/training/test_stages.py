"""Stages of a recipe: what each trains by, what is refused when the recipe is read, and what a folder may hold."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import METADATA_KEY
from calibox_training.machine import RunError
from calibox_training.recipe import Recipe, RecipeError, recipe_of_stage, with_overrides
from calibox_training.stages import stage_runs, train_by_stages
from calibox_training.train import RunSettings, train
from tests.support.recipes import tiny_recipe
from tests.support.systems import system

STAGES: list[dict[str, Any]] = [
    {"name": "detector", "set": {"model.quality": {"method": "none"}, "fusion": {"name": "classification"}}},
    {"name": "quality", "set": {"schedule.freeze": ["backbone", "fpn"], "schedule.learning_rate": 0.5}},
    {
        "name": "joint",
        "set": {"model.quality.weight": 0.25, "schedule": {"learning_rate": 0.1, "epochs": 9, "batch_size": 3}},
    },
]


def _staged(**overrides: Any) -> Recipe:
    return tiny_recipe(stages=STAGES, **overrides)


def _by_name(recipe: Recipe) -> dict[str, Recipe]:
    return {stage.name: recipe_of_stage(recipe, stage) for stage in recipe.stages}


def test_a_stage_is_the_recipe_with_its_own_values() -> None:
    plain, stages = tiny_recipe(), _by_name(_staged())
    assert list(stages) == ["detector", "quality", "joint"]
    assert stages["detector"].model.quality.method == "none"
    assert stages["detector"].model_copy(update={"model": plain.model, "fusion": plain.fusion}) == plain
    assert stages["quality"].schedule.freeze == ("backbone", "fpn")
    assert stages["quality"].schedule.learning_rate == 0.5
    assert stages["quality"].schedule.epochs == plain.schedule.epochs
    assert stages["joint"].model.quality.method == "iou_aware"
    # A mapping takes the whole place of the recipe's: the optimiser is the default again.
    assert (stages["joint"].schedule.epochs, stages["joint"].schedule.optimizer) == (9, "sgd")


def test_an_option_wins_over_every_stage() -> None:
    changed = with_overrides(_staged(), {"schedule.epochs": 4, "seed": 7, "data.name": "elsewhere"})
    assert {(r.schedule.epochs, r.seed, r.data.name) for r in _by_name(changed).values()} == {(4, 7, "elsewhere")}
    assert with_overrides(_staged(), {"schedule.epochs": None}) == _staged()


def test_the_example_of_the_guide_is_valid() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    (block,) = re.findall(r"^```yaml\n(stages:.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    recipe = system("led", **yaml.safe_load(block))
    assert list(_by_name(recipe)) == ["detector", "estimation"]


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ([{"name": "a", "set": {"schedule.epoch": 3}}], r"stage a is not a valid recipe:\n +schedule\.epoch"),
        ([{"name": "a", "set": {"schedul.epochs": 3}}], r"schedul\.epochs: schedul has no parts"),
        ([{"name": "a", "set": {"seed.epochs": 3}}], r"seed\.epochs: seed has no parts"),
        ([{"name": "a", "set": {"schedule.epochs": 0}}], r"stage a is not a valid recipe:\n +schedule\.epochs"),
        ([{"name": "a", "set": {"model.quality": {"method": "none"}}}], "nothing to fuse"),
        ([{"name": "a", "set": {"data.name": "other"}}], r"stage a sets data\.name, which is the same in all stages"),
        ([{"name": "a", "set": {"stages": []}}], "stage a sets stages"),
        ([{"name": "a"}, {"name": "a"}], "two stages have the same name: a, a"),
        ([{"name": "logs"}], r"stages\.0: .*choose another name"),
        ([{"name": "../a"}], r"stages\.0\.name"),
        ([{"name": "a", "change": {}}], r"stages\.0\.change"),
    ],
)
def test_stages_that_cannot_be_are_named_when_the_recipe_is_read(stages: list[Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        tiny_recipe(stages=stages)


def _leave_behind(folder: Path, recipe: Recipe, *, ended: bool) -> None:
    """What a run writes, as far as stages look at it."""
    (folder / "checkpoints").mkdir(parents=True)
    facts = {METADATA_KEY: {"recipe": recipe.model_dump(mode="json")}}
    torch.save(facts, folder / "checkpoints" / "last.ckpt")
    if ended:
        (folder / "metrics.json").write_text(json.dumps({"AP": 0.5}))


def test_the_states_of_stages_are_read_from_their_folders(tmp_path: Path) -> None:
    recipe = _staged()
    recipes = _by_name(recipe)
    assert [run.state for run in stage_runs(recipe, tmp_path)] == ["new", "new", "new"]
    _leave_behind(tmp_path / "detector", recipes["detector"], ended=True)
    (tmp_path / "quality" / "logs").mkdir(parents=True)  # killed before its first checkpoint
    assert [run.state for run in stage_runs(recipe, tmp_path)] == ["done", "new", "new"]
    _leave_behind(tmp_path / "quality", recipes["quality"], ended=False)
    assert [run.state for run in stage_runs(recipe, tmp_path)] == ["done", "begun", "new"]


def test_a_folder_of_another_recipe_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    _leave_behind(tmp_path / "detector", _by_name(_staged(seed=1))["detector"], ended=True)
    with pytest.raises(RunError, match=r"detector was trained by another recipe \(seed\)"):
        stage_runs(_staged(), tmp_path)


def test_a_stage_without_the_one_before_is_refused(tmp_path: Path) -> None:
    _leave_behind(tmp_path / "quality", _by_name(_staged())["quality"], ended=True)
    with pytest.raises(RunError, match="holds the stage quality, but detector before it"):
        stage_runs(_staged(), tmp_path)


def test_a_folder_with_a_run_of_its_own_is_refused(tmp_path: Path) -> None:
    _leave_behind(tmp_path, tiny_recipe(), ended=True)
    with pytest.raises(RunError, match="holds a run without these stages"):
        stage_runs(_staged(), tmp_path)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_steps": 5}, "tiny has the stages detector, quality, joint.*--epochs"),
        ({"resume": Path("last.ckpt")}, "the same command without --resume"),
    ],
)
def test_what_means_nothing_with_stages_is_refused(tmp_path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RunError, match=sentence):
        train_by_stages(_staged(), CocoFolder(tmp_path), RunSettings(output=tmp_path / "run", **settings))
    assert not (tmp_path / "run").exists()


def test_a_single_run_of_a_recipe_with_stages_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="train_by_stages"):
        train(_staged(), CocoFolder(tmp_path), RunSettings(output=tmp_path / "run"))

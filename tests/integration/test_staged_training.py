"""LED's three stages run one after the other, and go on by the same command wherever they were stopped."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import load_checkpoint
from calibox_training.recipe import Recipe
from calibox_training.stages import stage_runs, train_by_stages
from calibox_training.train import RunSettings, TrainingResult
from tests.support.coco import make_coco_folder
from tests.support.interruption import assert_equal, train_until_killed, write_recipe
from tests.support.systems import system

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

FROZEN = ["backbone", "ssd", "head.class_convs", "head.box_convs"]
STAGES: list[dict[str, Any]] = [
    {"name": "detector", "set": {"model.quality": {"method": "none"}, "fusion": {"name": "classification"}}},
    {"name": "quality", "set": {"schedule.freeze": FROZEN}},
    {"name": "joint", "set": {"model.quality.weight": 0.25, "schedule.learning_rate": 0.0005}},
]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Four batches in each stage, and a checkpoint after every second."""
    schedule = {"schedule__epochs": 1, "schedule__batch_size": 2, "schedule__checkpoint_every": 2}
    return system("led", stages=STAGES, augmentation__crop=0.5, **schedule)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles", val=2)


@pytest.fixture(scope="module")
def whole(recipe: Recipe, folder: CocoFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody interrupted."""
    output = tmp_path_factory.mktemp("whole") / "run"
    _run(recipe, folder, output)
    return output


def _run(recipe: Recipe, folder: CocoFolder, output: Path) -> TrainingResult:
    settings = RunSettings(output=output, accelerator="cpu", workers=0, progress=False)
    return train_by_stages(recipe, folder, settings)


def _states(output: Path, recipe: Recipe) -> list[str]:
    return [run.state for run in stage_runs(recipe, output)]


def _saved(output: Path) -> Any:
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


def test_every_stage_starts_where_the_one_before_ended(recipe: Recipe, whole: Path) -> None:
    detector, quality, joint = (load_checkpoint(run.checkpoint) for run in stage_runs(recipe, whole))
    before, between, after = (m.detector.state_dict() for m in (detector, quality, joint))
    assert not any(name.startswith("head.quality_convs.") for name in before)
    assert all(torch.equal(between[name], value) for name, value in before.items())
    changed = {name for name in between if not torch.equal(between[name], after[name])}
    assert {f"head.{part}_convs.0.weight" for part in ("class", "box")} <= changed
    assert {"head.quality_convs.0.estimate.weight", "backbone.features.0.weight"} <= changed
    assert [m.recipe.model.quality.method for m in (detector, quality, joint)] == ["none", "led", "led"]


def test_the_last_stage_is_the_result_of_the_whole(recipe: Recipe, whole: Path) -> None:
    assert_equal(_saved(whole), _saved(whole / "joint"))
    assert json.loads((whole / "metrics.json").read_text()) == json.loads(
        (whole / "joint" / "metrics.json").read_text()
    )


@pytest.mark.parametrize(
    ("batches", "states"),
    [
        pytest.param(3, ["begun", "new", "new"], id="inside the first", marks=pytest.mark.slow),
        pytest.param(5, ["done", "new", "new"], id="between the first and its successor's first checkpoint"),
        pytest.param(11, ["done", "done", "begun"], id="inside the last"),
    ],
)
def test_killed_stages_that_go_on_end_as_if_nothing_had_been(
    tmp_path: Path, recipe: Recipe, folder: CocoFolder, whole: Path, batches: int, states: list[str]
) -> None:
    output = tmp_path / "run"
    train_until_killed(recipe, folder, output, batches=batches)
    assert _states(output, recipe) == states
    result = _run(recipe, folder, output)
    assert result.checkpoint == output / "checkpoints" / "last.ckpt"
    for name in ("detector", "quality", "joint"):
        found, wanted = _saved(output / name), _saved(whole / name)
        for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers"):
            assert_equal(found[key], wanted[key], f"{name}.{key}")
    assert_equal(_saved(output)["state_dict"], _saved(whole)["state_dict"])


def test_stages_that_are_done_are_not_run_again(recipe: Recipe, folder: CocoFolder, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*/checkpoints/last.ckpt")}
    assert len(before) == 3
    result = _run(recipe, folder, whole)
    assert result.metrics == json.loads((whole / "metrics.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_stage_killed_between_its_last_checkpoint_and_its_metrics_ends(
    tmp_path: Path, recipe: Recipe, folder: CocoFolder, whole: Path
) -> None:
    output = tmp_path / "run"
    for stage in ("detector", "quality"):
        shutil.copytree(whole / stage, output / stage)
    metrics = output / "quality" / "metrics.json"
    wanted = metrics.read_text()
    metrics.unlink()
    assert _states(output, recipe) == ["done", "begun", "new"]
    _run(recipe, folder, output)
    assert metrics.read_text() == wanted
    assert_equal(_saved(output)["state_dict"], _saved(whole)["state_dict"])


def test_two_processes_under_torchrun_run_all_stages(tmp_path: Path, recipe: Recipe, folder: CocoFolder) -> None:
    words = ["train", str(write_recipe(recipe, tmp_path / "staged.yaml")), "--data", str(folder.root)]
    words += ["--output", str(tmp_path / "run"), "--accelerator", "cpu", "--workers", "0", "--no-progress"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run(
        [*command, "calibox_core.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "stage joint: new" in done.stdout
    assert _states(tmp_path / "run", recipe) == ["done", "done", "done"]
    first, last = _saved(tmp_path / "run" / "quality"), _saved(tmp_path / "run")
    assert (first["global_step"], last["global_step"]) == (2, 2)
    assert not torch.equal(
        first["state_dict"]["detector.head.box_convs.0.weight"], last["state_dict"]["detector.head.box_convs.0.weight"]
    )

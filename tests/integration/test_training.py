"""Whole training runs on a drawn data set: what is written, resumed and loaded again."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import METADATA_KEY, CheckpointError, load_checkpoint
from calibox_training.recipe import Recipe
from calibox_training.train import RunError, RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.recipes import tiny_recipe

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return make_coco_folder(tmp_path / "rectangles")


def _run(recipe: Recipe, folder: CocoFolder, output: Path, **settings: object) -> Path:
    chosen = RunSettings(output=output, accelerator="cpu", workers=0, progress=False, **settings)  # type: ignore[arg-type]
    return train(recipe, folder, chosen).checkpoint


def _losses(output: Path) -> list[float]:
    with (output / "logs" / "version_0" / "metrics.csv").open() as stream:
        return [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]


def test_a_run_leaves_a_loadable_checkpoint_metrics_and_logs(tmp_path: Path, folder: CocoFolder) -> None:
    output = tmp_path / "run"
    recipe = tiny_recipe(schedule__ema_decay=0.5)
    trained = load_checkpoint(_run(recipe, folder, output))
    assert trained.recipe == recipe
    assert [c.name for c in trained.classes] == ["red", "blue"]
    assert trained.dataset.name == "rectangles"
    metrics = json.loads((output / "metrics.json").read_text())
    assert trained.metrics == metrics
    assert {"AP", "AP50", "AP75", "AP90", "pearson_score", "pearson_classification", "pearson_localization"} <= set(
        metrics
    )
    assert list((output / "logs" / "version_0").glob("events.out.tfevents.*"))
    assert not trained.detector.training


def test_the_loss_falls_on_a_data_set_that_can_be_learnt(tmp_path: Path, folder: CocoFolder) -> None:
    recipe = tiny_recipe(schedule__epochs=30, schedule__validate_every=30)
    _run(recipe, folder, tmp_path / "run")
    losses = _losses(tmp_path / "run")
    assert losses[-1] < 0.5 * losses[0]


def test_a_resumed_run_goes_on_where_it_stopped(tmp_path: Path, folder: CocoFolder) -> None:
    recipe, output = tiny_recipe(schedule__epochs=2), tmp_path / "run"
    stopped = _run(recipe, folder, output, max_steps=2)  # one epoch of eight images in batches of four
    before = torch.load(stopped, weights_only=True)
    assert (before["epoch"], before["global_step"]) == (0, 2)
    resumed = torch.load(_run(recipe, folder, output, resume=stopped), weights_only=True)
    assert (resumed["epoch"], resumed["global_step"]) == (1, 4)
    moments = [state["step"].item() for state in resumed["optimizer_states"][0]["state"].values()]
    assert set(moments) == {4.0}
    assert len(_losses(output)) == 1  # the first part's log is still there


def test_a_new_run_refuses_the_folder_of_another(tmp_path: Path, folder: CocoFolder) -> None:
    _run(tiny_recipe(schedule__epochs=1), folder, tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        _run(tiny_recipe(schedule__epochs=1), folder, tmp_path / "run")


def test_a_checkpoint_to_resume_from_that_is_not_there_is_a_sentence(tmp_path: Path, folder: CocoFolder) -> None:
    with pytest.raises(RunError, match=r"no checkpoint .*none\.ckpt to go on from"):
        _run(tiny_recipe(), folder, tmp_path / "run", resume=tmp_path / "none.ckpt")


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="carries no recipe"):
        load_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_weights_that_do_not_fit_the_recipe_are_refused(tmp_path: Path, folder: CocoFolder) -> None:
    path = _run(tiny_recipe(schedule__epochs=1), folder, tmp_path / "run")
    saved = torch.load(path, weights_only=True)
    saved[METADATA_KEY]["recipe"]["model"]["tower_depth"] = 2
    torch.save(saved, path)
    with pytest.raises(CheckpointError, match="do not fit its recipe"):
        load_checkpoint(path)


def _command(folder: CocoFolder, tmp_path: Path) -> list[str]:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(schedule__epochs=1).model_dump(mode="json")))
    options = ["--data", str(folder.root), "--output", str(tmp_path / "run"), "--accelerator", "cpu", "--workers", "0"]
    return ["-m", "calibox_core.cli", "train", str(recipe), *options, "--no-progress"]


def test_the_command_trains_and_names_its_checkpoint(tmp_path: Path, folder: CocoFolder) -> None:
    done = subprocess.run([sys.executable, *_command(folder, tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "run" / "checkpoints" / "last.ckpt") in done.stdout


def test_the_command_names_a_data_set_that_is_not_there(tmp_path: Path, folder: CocoFolder) -> None:
    command = _command(folder, tmp_path)
    command[command.index(str(folder.root))] = str(tmp_path / "nowhere")
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no data set in" in done.stderr
    assert "Traceback" not in done.stderr


# Writes what each process saw: its weights at the end, the images that it validated, the results that were gathered.
WATCHED_TRAINING = """
import os
from pathlib import Path
import torch
from calibox_core.cli import main
from calibox_training import lightning_module, run_module
from calibox_training.evaluation import Evaluator

seen, gathered = [], []
run, summarise = Evaluator.run, run_module.summarise

def watched_run(self, graph, record):
    seen.append(record.image_id)
    return run(self, graph, record)

def watched_summarise(annotations, results):
    gathered.append(len(results))
    return summarise(annotations, results)

def report(self):
    path = Path(os.environ["REPORTS"], f"{self.global_rank}.pt")
    torch.save({"weights": self.detector.state_dict(), "seen": seen, "gathered": gathered}, path)

Evaluator.run, run_module.summarise = watched_run, watched_summarise
lightning_module.DetectorModule.on_train_end = report
main()
"""


def test_two_processes_under_torchrun_train_one_model_and_count_every_image_once(tmp_path: Path) -> None:
    folder = make_coco_folder(tmp_path / "rectangles", train=16, val=5)
    program = tmp_path / "watched.py"
    program.write_text(WATCHED_TRAINING)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(program), *_command(folder, tmp_path)[2:]),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "REPORTS": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    trained = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").detector.state_dict()
    for name, value in trained.items():
        assert torch.equal(first["weights"][name], value), name
        # Batch-norm statistics are each process's own; what is trained is one.
        if not name.endswith(("running_mean", "running_var")):
            assert torch.equal(second["weights"][name], value), name
    wanted = sorted(image["id"] for image in folder.annotations("val")["images"])
    assert sorted(first["seen"] + second["seen"]) == wanted
    assert first["gathered"] == second["gathered"] == [len(wanted)]

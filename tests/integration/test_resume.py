"""A run that is killed and goes on ends with the weights of a run that was left alone, bit for bit on one thread."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import METADATA_KEY
from calibox_training.lightning_module import PROGRESS_KEY
from calibox_training.recipe import Recipe
from calibox_training.run_checkpoints import AtomicCheckpointIO
from calibox_training.train import RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.recipes import tiny_recipe

# The process kills itself right after the given batch, between one line and the next: nothing is tidied up.
KILLED_TRAINING = """
import os, signal, sys
from calibox_training.lightning_module import DetectorModule

def kill_after(self, outputs, batch, batch_idx, _given=[0]):
    _given[0] += 1
    if _given[0] == {batches}:
        os.kill(os.getpid(), signal.SIGKILL)

DetectorModule.on_train_batch_end = kill_after
from calibox_core.cli import main
main()
"""


# Lightning's advice for machines with many cores; a run of twelve images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

PLAIN = {
    "schedule__batch_size": 2,
    "schedule__epochs": 2,
    "schedule__checkpoint_every": 2,
    "schedule__ema_decay": 0.9,
    "schedule__validate_every": 2,
    "augmentation__zoom_out": 0.5,
    "augmentation__crop": 0.5,
    "augmentation__colour": 0.5,
    "augmentation__photometric": 0.5,
}
# Two batches a step, so a checkpoint after every step; a learning rate that falls after each epoch but the best.
ACCUMULATED = PLAIN | {
    "schedule__accumulate": 2,
    "schedule__checkpoint_every": 1,
    "schedule__decay": "plateau",
    "schedule__plateau_patience": 0,
    "schedule__epochs": 3,
    "augmentation__sizes": [[96, 128], [64, 96]],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    """Six batches of two."""
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles", train=12)


@pytest.fixture(scope="module")
def left_alone(folder: CocoFolder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Path]:
    """Runs that nobody interrupted, each trained once."""
    done: dict[str, Path] = {}

    def run(values: dict[str, Any]) -> Path:
        key = repr(values)
        if key not in done:
            done[key] = _train(tiny_recipe(**values), folder, tmp_path_factory.mktemp("whole"))
        return done[key]

    return run


def _train(recipe: Recipe, folder: CocoFolder, output: Path, **settings: Any) -> Path:
    chosen = RunSettings(output=output, accelerator="cpu", progress=False, **({"workers": 0} | settings))
    return train(recipe, folder, chosen).checkpoint


def _train_until_killed(recipe: Recipe, folder: CocoFolder, output: Path, batches: int) -> Path:
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    words = ["train", str(path), "--data", str(folder.root), "--output", str(output), "--accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_TRAINING.format(batches=batches), *words, "--workers", "0", "--no-progress"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return output / "checkpoints" / "last.ckpt"


def _assert_equal(found: Any, wanted: Any, where: str = "") -> None:
    """Equal to the last bit, at any depth."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            _assert_equal(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for row, value in enumerate(wanted):
            _assert_equal(found[row], value, f"{where}[{row}]")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted, where


@pytest.mark.parametrize(
    ("values", "killed_after", "saved_step"),
    [
        pytest.param(PLAIN, 3, 2, id="in the first epoch"),
        pytest.param(PLAIN, 6, 4, id="between the last batch and the checkpoint of the epoch"),
        pytest.param(PLAIN, 9, 8, id="in the second epoch"),
        pytest.param(ACCUMULATED, 11, 5, id="between two steps"),
    ],
)
def test_a_killed_run_that_goes_on_ends_as_if_nothing_had_been(
    tmp_path: Path,
    folder: CocoFolder,
    left_alone: Callable[[dict[str, Any]], Path],
    values: dict[str, Any],
    killed_after: int,
    saved_step: int,
) -> None:
    recipe = tiny_recipe(**values)
    checkpoint = _train_until_killed(recipe, folder, tmp_path / "killed", killed_after)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == saved_step
    resumed = torch.load(_train(recipe, folder, tmp_path / "killed", resume=checkpoint), weights_only=True)
    whole = torch.load(left_alone(values), weights_only=True)
    for key in ("epoch", "global_step", "state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        _assert_equal(resumed[key], whole[key], key)
    _assert_equal(resumed[PROGRESS_KEY], whole[PROGRESS_KEY])
    assert resumed[METADATA_KEY]["metrics"] == whole[METADATA_KEY]["metrics"]


def test_workers_change_nothing(
    tmp_path: Path, folder: CocoFolder, left_alone: Callable[[dict[str, Any]], Path]
) -> None:
    found = torch.load(_train(tiny_recipe(**PLAIN), folder, tmp_path / "run", workers=2), weights_only=True)
    _assert_equal(found["state_dict"], torch.load(left_alone(PLAIN), weights_only=True)["state_dict"])


def test_a_run_that_max_steps_stops_inside_an_epoch_goes_on_to_the_same_end(
    tmp_path: Path, folder: CocoFolder, left_alone: Callable[[dict[str, Any]], Path]
) -> None:
    recipe = tiny_recipe(**PLAIN)
    stopped = _train(recipe, folder, tmp_path / "run", max_steps=5)
    assert torch.load(stopped, weights_only=True)["global_step"] == 5
    resumed = torch.load(_train(recipe, folder, tmp_path / "run", resume=stopped), weights_only=True)
    _assert_equal(resumed["state_dict"], torch.load(left_alone(PLAIN), weights_only=True)["state_dict"])


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"step": 1}, path)

    def stop_halfway(checkpoint: object, stream: Any) -> None:
        stream.write(b"half of a check")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", stop_halfway)
        with pytest.raises(KeyboardInterrupt):
            writer.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    writer.save_checkpoint({"step": 3}, path)
    assert torch.load(path, weights_only=True) == {"step": 3}
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]

"""A run that is killed and goes on ends with the weights of a run that was left alone, bit for bit on one thread."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import METADATA_KEY
from calibox_training.recipe import Recipe
from calibox_training.run_checkpoints import AtomicCheckpointIO
from calibox_training.run_module import PROGRESS_KEY
from calibox_training.train import RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.interruption import assert_equal, train_until_killed
from tests.support.recipes import tiny_recipe

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
    train_until_killed(recipe, folder, tmp_path / "killed", batches=killed_after)
    checkpoint = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] == saved_step
    resumed = torch.load(_train(recipe, folder, tmp_path / "killed", resume=checkpoint), weights_only=True)
    whole = torch.load(left_alone(values), weights_only=True)
    for key in ("epoch", "global_step", "state_dict", "current_model_state", "optimizer_states", "lr_schedulers"):
        assert_equal(resumed[key], whole[key], key)
    assert_equal(resumed[PROGRESS_KEY], whole[PROGRESS_KEY])
    assert resumed[METADATA_KEY]["metrics"] == whole[METADATA_KEY]["metrics"]


def test_workers_change_nothing(
    tmp_path: Path, folder: CocoFolder, left_alone: Callable[[dict[str, Any]], Path]
) -> None:
    found = torch.load(_train(tiny_recipe(**PLAIN), folder, tmp_path / "run", workers=2), weights_only=True)
    assert_equal(found["state_dict"], torch.load(left_alone(PLAIN), weights_only=True)["state_dict"])


def test_a_run_that_max_steps_stops_inside_an_epoch_goes_on_to_the_same_end(
    tmp_path: Path, folder: CocoFolder, left_alone: Callable[[dict[str, Any]], Path]
) -> None:
    recipe = tiny_recipe(**PLAIN)
    stopped = _train(recipe, folder, tmp_path / "run", max_steps=5)
    assert torch.load(stopped, weights_only=True)["global_step"] == 5
    resumed = torch.load(_train(recipe, folder, tmp_path / "run", resume=stopped), weights_only=True)
    assert_equal(resumed["state_dict"], torch.load(left_alone(PLAIN), weights_only=True)["state_dict"])


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

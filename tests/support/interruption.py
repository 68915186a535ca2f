"""Trainings that are killed, and the comparison of what they leave behind."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from calibox_core.dataset import CocoFolder
from calibox_training.recipe import RunRecipe

# The process kills itself right after the given batch, between one line and the next: nothing is tidied up.
KILLED_TRAINING = """
import os, signal, sys
from calibox_training.run_module import RunModule

def kill_after(self, outputs, batch, batch_idx, _given=[0]):
    _given[0] += 1
    if _given[0] == {batches}:
        os.kill(os.getpid(), signal.SIGKILL)

RunModule.on_train_batch_end = kill_after
from calibox_core.cli import main
main()
"""


def write_recipe(recipe: RunRecipe, path: Path) -> Path:
    """A recipe as a file."""
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def train_until_killed(recipe: RunRecipe, folder: CocoFolder, output: Path, *, batches: int) -> None:
    """`calibox train`, killed right after so many batches."""
    path = write_recipe(recipe, output.with_suffix(".yaml"))
    words = ["train", str(path), "--data", str(folder.root), "--output", str(output), "--accelerator", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_TRAINING.format(batches=batches), *words, "--workers", "0", "--no-progress"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def assert_equal(found: Any, wanted: Any, where: str = "") -> None:
    """Equal to the last bit, at any depth."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), where
        for key in wanted:
            assert_equal(found[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted), where
        for row, value in enumerate(wanted):
            assert_equal(found[row], value, f"{where}[{row}]")
    elif isinstance(wanted, torch.Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted, where

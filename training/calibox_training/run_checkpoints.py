"""Checkpoints of a run: when they are written, and so that a kill at any moment leaves a whole one."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

LAST_CHECKPOINT = "last.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target and renames: the earlier checkpoint stands until the new one is on the disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Lightning's hook, called by the first process only; a local file has no storage options."""
        del storage_options
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f"{target.name}.part")
        with scratch.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        scratch.replace(target)


class RunCheckpoint(Checkpoint):
    """Keeps `last.ckpt` up to date: at the end of every epoch, every so many optimiser steps, and where a run stops.

    The last epoch is kept, not the best: choosing an epoch on the split that is reported would flatter it.
    """

    def __init__(self, folder: Path, *, every_steps: int) -> None:
        self.path = folder / LAST_CHECKPOINT
        self.every_steps = every_steps
        self.saved_step = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves in the middle of an epoch, right after an optimiser step."""
        step = trainer.global_step
        # An epoch's last batch belongs to the checkpoint after validation, which follows at once.
        if step == self.saved_step or _epoch_is_whole(trainer):
            return
        if step == trainer.max_steps or (self.every_steps and step % self.every_steps == 0):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Saves a whole epoch; one that `max_steps` cut short has its checkpoint already."""
        if _epoch_is_whole(trainer):
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        """The step of the checkpoint being written."""
        return {"saved_step": self.saved_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on counting."""
        self.saved_step = state_dict["saved_step"]


def _epoch_is_whole(trainer: Trainer) -> bool:
    whole: bool = trainer.is_last_batch
    return whole

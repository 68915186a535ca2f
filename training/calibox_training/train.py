"""A training run: recipe and data in, a folder with checkpoints, logs and metrics out."""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from calibox_core.dataset import CocoFolder
from calibox_core.errors import CaliboxError
from calibox_training.data.coco import describe_dataset
from calibox_training.data.module import CocoDataModule
from calibox_training.lightning_module import DetectorModule
from calibox_training.recipe import Recipe

LAST_CHECKPOINT = "last.ckpt"


class RunError(CaliboxError):
    """A run cannot start as asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What belongs to a run and not to the model."""

    output: Path
    accelerator: str = "auto"
    workers: int = 2
    resume: Path | None = None
    max_steps: int = -1  # of the optimiser; -1 runs the recipe's epochs
    progress: bool = True


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Where the run ended."""

    checkpoint: Path
    metrics: dict[str, float | None]


def train(recipe: Recipe, folder: CocoFolder, settings: RunSettings) -> TrainingResult:
    """Trains, validates and writes ``<output>/checkpoints/last.ckpt``, logs and ``metrics.json``.

    Runs alone or in every process that torchrun starts (DDP).

    Raises:
        RunError: the output folder holds another run and this one does not resume it.
    """
    if settings.resume is None and (settings.output / "checkpoints").exists():
        raise RunError(
            f"{settings.output} holds a run already; go on with --resume CHECKPOINT or choose another --output"
        )
    seed_everything(recipe.seed, workers=True, verbose=False)
    # Lightning greets every run with tips and a list of devices that are not there; warnings stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    data = CocoDataModule(recipe, folder, workers=settings.workers)
    module = DetectorModule(recipe, data, describe_dataset(recipe.data, folder))
    trainer = _trainer(recipe, settings, batches=len(data.train_annotations["images"]) // recipe.schedule.batch_size)
    with _known_warnings_ignored():
        trainer.fit(module, datamodule=data, ckpt_path=settings.resume)
    last = settings.output / "checkpoints" / LAST_CHECKPOINT
    if trainer.is_global_zero:
        _write_json(settings.output / "metrics.json", module.metrics)
    return TrainingResult(last, module.metrics)


@contextmanager
def _known_warnings_ignored() -> Iterator[None]:
    """Silences what Lightning says of itself, and that a resumed run writes beside its earlier checkpoints."""
    with warnings.catch_warnings():
        for message in (".*LeafSpec.*", ".*Checkpoint directory .* exists and is not empty.*"):
            warnings.filterwarnings("ignore", message)
        yield


def _trainer(recipe: Recipe, settings: RunSettings, *, batches: int) -> Trainer:
    schedule = recipe.schedule
    return Trainer(
        accelerator=settings.accelerator,
        **_processes(settings.accelerator),
        precision=schedule.precision,
        max_epochs=schedule.epochs,
        max_steps=settings.max_steps,
        gradient_clip_val=schedule.clip_norm or None,
        check_val_every_n_epoch=schedule.validate_every,
        num_sanity_val_steps=0,
        callbacks=_callbacks(recipe, settings),
        logger=_loggers(settings.output),
        log_every_n_steps=max(1, min(10, batches // int(os.environ.get("WORLD_SIZE", "1")))),
        enable_progress_bar=settings.progress,
        enable_model_summary=False,
        use_distributed_sampler=True,
    )


def _loggers(output: Path) -> list[Logger]:
    """CSV and TensorBoard side by side in ``logs/version_<n>``; a resumed run leaves the earlier files alone."""
    version = f"version_{len(list((output / 'logs').glob('version_*')))}"
    return [
        CSVLogger(output, name="logs", version=version, flush_logs_every_n_steps=20),
        TensorBoardLogger(output, name="logs", version=version),
    ]


def _callbacks(recipe: Recipe, settings: RunSettings) -> list[Callback]:
    callbacks: list[Callback] = [
        # The last epoch is kept, not the best: choosing an epoch on the split that is reported would flatter it.
        ModelCheckpoint(
            settings.output / "checkpoints",
            filename="epoch-{epoch}",
            auto_insert_metric_name=False,
            save_last=True,
            save_top_k=1,
            save_on_train_epoch_end=True,
        ),
        LearningRateMonitor("step"),
    ]
    if settings.progress:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    if recipe.schedule.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=recipe.schedule.ema_decay))
    return callbacks


def _processes(accelerator: str) -> dict[str, Any]:
    """Processes as torchrun laid them out; one otherwise."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return {"devices": 1 if accelerator == "cpu" else "auto"}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return {"devices": local, "num_nodes": world // local, "strategy": "ddp"}


def _write_json(path: Path, value: object) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)

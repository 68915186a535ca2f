"""A training run: recipe and data in, a folder with checkpoints, logs and metrics out."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from calibox_core.dataset import DataFolder
from calibox_training.data.coco import describe_dataset
from calibox_training.data.module import CocoDataModule
from calibox_training.init_from import initialise_from
from calibox_training.lightning_module import DetectorModule
from calibox_training.machine import RunError, device_type, require_compiler, require_precision
from calibox_training.recipe import Recipe, RunRecipe
from calibox_training.run_checkpoints import LAST_CHECKPOINT, AtomicCheckpointIO, RunCheckpoint
from calibox_training.run_module import RunModule

log = logging.getLogger(__name__)
METRICS = "metrics.json"  # in the folder of a run that came to its end


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What belongs to a run and not to the model."""

    output: Path
    accelerator: str = "auto"
    workers: int = 2
    resume: Path | None = None
    init_from: Path | None = None  # torchvision's RetinaNet, or the checkpoint of an earlier training stage
    compile: bool = False  # backbone, FPN and head by torch.compile
    max_steps: int = -1  # of the optimiser; -1 runs the recipe's epochs
    progress: bool = True


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Where the run ended."""

    checkpoint: Path
    metrics: dict[str, float | None]


def train(recipe: Recipe, folder: DataFolder, settings: RunSettings) -> TrainingResult:
    """Trains, validates and writes ``<output>/checkpoints/last.ckpt``, logs and ``metrics.json``.

    Runs alone or in every process that torchrun starts (DDP).

    Raises:
        RunError: the output folder holds another run and this one does not resume it, this machine cannot do what
            was asked, or the recipe has stages, which `calibox_training.stages` runs.
    """
    if recipe.stages:
        raise RunError(f"{recipe.name} has stages: run it with calibox_training.stages.train_by_stages")
    data = prepare(recipe, folder, settings)
    module = DetectorModule(recipe, data, describe_dataset(recipe.data, folder), compile_detector=settings.compile)
    if settings.init_from is not None:
        warn_of_fresh(initialise_from(module.detector, settings.init_from, data.classes), settings.init_from)
    return fit(module, settings)


def prepare(
    recipe: RunRecipe, folder: DataFolder, settings: RunSettings, kind: type[CocoDataModule] = CocoDataModule
) -> CocoDataModule:
    """What comes before a run of any detector: checks, the seed, and the data, of which ``kind`` makes batches.

    Raises:
        RunError: the output folder holds another run and this one does not resume it, or this machine cannot do what
            was asked.
        DatasetError: see `CocoDataModule.check`.
    """
    if settings.resume is None and (settings.output / "checkpoints" / LAST_CHECKPOINT).exists():
        raise RunError(
            f"{settings.output} holds a run already; go on with --resume CHECKPOINT or choose another --output"
        )
    if settings.resume is not None and settings.init_from is not None:
        raise RunError("--resume goes on with the weights of its checkpoint; leave out --init-from")
    if settings.resume is not None and not settings.resume.is_file():
        raise RunError(f"there is no checkpoint {settings.resume} to go on from")
    device = device_type(settings.accelerator)
    require_precision(recipe.schedule.precision, device)
    if settings.compile:
        require_compiler(device)
    seed_everything(recipe.seed, workers=True, verbose=False)
    # Lightning greets every run with tips and a list of devices that are not there; warnings stay.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    data = kind(recipe, folder, workers=settings.workers)
    data.check()
    return data


def warn_of_fresh(fresh: Sequence[str], source: Path) -> None:
    """Names the modules whose values a file to start from did not have."""
    if fresh:
        parts = sorted({".".join(name.split(".")[:2]) for name in fresh})  # head.quality_convs, not its 60 values
        log.warning("not in %s, and so initialised at random: %s", source, ", ".join(parts))


def fit(module: RunModule, settings: RunSettings) -> TrainingResult:
    """Runs a module to its recipe's end."""
    recipe, data = module.recipe, module.data
    trainer = _trainer(recipe, settings, batches=len(data.train_annotations["images"]) // recipe.schedule.batch_size)
    with _known_warnings_ignored():
        trainer.fit(module, datamodule=data, ckpt_path=settings.resume)
    last = settings.output / "checkpoints" / LAST_CHECKPOINT
    if trainer.is_global_zero:
        write_json(settings.output / METRICS, module.metrics)
    return TrainingResult(last, module.metrics)


@contextmanager
def _known_warnings_ignored() -> Iterator[None]:
    """Silences what Lightning says of itself, and of modules that a recipe keeps in eval mode."""
    with warnings.catch_warnings():
        for message in (".*LeafSpec.*", ".*module\\(s\\) in eval mode at the start of training.*"):
            warnings.filterwarnings("ignore", message)
        yield


def _trainer(recipe: RunRecipe, settings: RunSettings, *, batches: int) -> Trainer:
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
        use_distributed_sampler=False,  # batches know their process
        accumulate_grad_batches=schedule.accumulate,
        plugins=[AtomicCheckpointIO()],
    )


def _loggers(output: Path) -> list[Logger]:
    """CSV and TensorBoard side by side in ``logs/version_<n>``; a resumed run leaves the earlier files alone."""
    version = f"version_{len(list((output / 'logs').glob('version_*')))}"
    return [
        CSVLogger(output, name="logs", version=version, flush_logs_every_n_steps=20),
        TensorBoardLogger(output, name="logs", version=version),
    ]


def _callbacks(recipe: RunRecipe, settings: RunSettings) -> list[Callback]:
    callbacks: list[Callback] = [
        RunCheckpoint(settings.output / "checkpoints", every_steps=recipe.schedule.checkpoint_every),
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


def write_json(path: Path, value: object) -> None:
    """Writes beside the target and renames."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(value, indent=2) + "\n")
    scratch.replace(path)

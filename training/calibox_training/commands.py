"""`calibox train`."""

from pathlib import Path
from typing import Annotated

import typer

from calibox_core.cli import require_extra


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships with calibox.")],
    data: Annotated[
        str | None,
        typer.Option(help="Folder in COCO layout, or a name below CALIBOX_DATA; the recipe's own by default."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<name> by default.")] = None,
    backbone_weights: Annotated[
        str | None, typer.Option(help="torchvision weights (DEFAULT, IMAGENET1K_V2, ...), a local file, or none.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint to go on from.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps (Lightning's names).")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that load images; 0 loads in the training process.")] = 2,
    epochs: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Overrides the recipe, per process.")] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    max_steps: Annotated[int, typer.Option(help="Stop after this many optimiser steps; -1 for the whole recipe.")] = -1,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a detector by a recipe. Under torchrun every process takes its share (DDP)."""
    require_extra("train", "train", "torch", "torchvision", "lightning", "yaml", "pycocotools", "cv2", "simplejpeg")
    from calibox_core.dataset import find_dataset
    from calibox_training.recipe import load_recipe, with_overrides
    from calibox_training.train import RunSettings
    from calibox_training.train import train as run

    chosen = with_overrides(
        load_recipe(recipe),
        {
            "model.backbone_weights": backbone_weights,
            "schedule.epochs": epochs,
            "schedule.batch_size": batch_size,
            "seed": seed,
        },
    )
    settings = RunSettings(
        output=output or Path("runs") / chosen.name,
        accelerator=accelerator,
        workers=workers,
        resume=resume,
        max_steps=max_steps,
        progress=progress,
    )
    result = run(chosen, find_dataset(data or chosen.data.name), settings)
    measured = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if value is not None)
    typer.echo(f"{measured}\ncheckpoint: {result.checkpoint}")

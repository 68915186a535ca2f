"""`calibox train`."""

from pathlib import Path
from typing import Annotated

import typer

from calibox_core.cli import require_extra

InitFrom = Annotated[
    Path | None,
    typer.Option(
        help="Weights to start from: torchvision's RetinaNet, SSD or R-CNN, or a checkpoint of an earlier stage."
    ),
]

Freeze = Annotated[
    str | None,
    typer.Option(help="Detector modules that are not trained, by comma; overrides the recipe's schedule.freeze."),
]

CheckpointEvery = Annotated[
    int | None, typer.Option(help="Optimiser steps between checkpoints inside an epoch; overrides the recipe.")
]

Precision = Annotated[
    str | None, typer.Option(help="32-true, bf16-mixed or 16-mixed (GPU only); overrides the recipe.")
]

Compile = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Run backbone, FPN and head through torch.compile.")
]

BackboneWeights = Annotated[
    str | None, typer.Option(help="torchvision weights (DEFAULT, IMAGENET1K_V2, ...), a local file, or none.")
]


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe that ships with calibox.")],
    data: Annotated[
        str | None,
        typer.Option(help="Folder in the recipe's layout, or a name below CALIBOX_DATA; the recipe's own by default."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<name> by default.")] = None,
    backbone_weights: BackboneWeights = None,
    init_from: InitFrom = None,
    freeze: Freeze = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint to go on from.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps (Lightning's names).")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that load images; 0 loads in the training process.")] = 2,
    epochs: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Overrides the recipe, per process.")] = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    max_steps: Annotated[int, typer.Option(help="Stop after this many optimiser steps; -1 for the whole recipe.")] = -1,
    checkpoint_every: CheckpointEvery = None,
    precision: Precision = None,
    compile_: Compile = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a detector by a recipe, stage by stage where it has several; the same command goes on with them.

    Under torchrun every process takes its share (DDP).
    """
    require_extra("train", "train", "torch", "torchvision", "lightning", "yaml", "pycocotools", "cv2", "simplejpeg")
    from calibox_core.layouts import open_dataset
    from calibox_training.kinds import load_any, stages_of, train_any
    from calibox_training.recipe import with_overrides
    from calibox_training.train import RunSettings

    chosen = with_overrides(
        load_any(recipe),
        {
            "model.backbone_weights": backbone_weights,
            "schedule.epochs": epochs,
            "schedule.batch_size": batch_size,
            "seed": seed,
            "schedule.checkpoint_every": checkpoint_every,
            "schedule.precision": precision,
            "schedule.freeze": [name for name in freeze.split(",") if name] if freeze is not None else None,
        },
    )
    settings = RunSettings(
        output=output or Path("runs") / chosen.name,
        accelerator=accelerator,
        workers=workers,
        resume=resume,
        init_from=init_from,
        max_steps=max_steps,
        compile=compile_,
        progress=progress,
    )
    for stage in stages_of(chosen, settings.output):
        typer.echo(f"stage {stage.name}: {stage.state}")
    result = train_any(chosen, open_dataset(data or chosen.data.name, chosen.data), settings)
    measured = "  ".join(f"{name} {value:.4f}" for name, value in result.metrics.items() if value is not None)
    typer.echo(f"{measured}\ncheckpoint: {result.checkpoint}")

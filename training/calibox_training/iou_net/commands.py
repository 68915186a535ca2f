"""`calibox train-iou-net`."""

from pathlib import Path
from typing import Annotated

import typer

from calibox_core.cli import require_extra


def train_iou_net(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of `calibox train`; its detector stays as it is.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder in the recipe's layout, or a name below CALIBOX_DATA; the detector's own by default."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<name>-iou-net by default.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 12,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, falling with a cosine.")] = 0.0005,
    width: Annotated[int, typer.Option(min=1, help="Units of each hidden layer; the paper has 1024.")] = 128,
    pooled: Annotated[int, typer.Option(min=1, help="Bins of a pooled box along either side.")] = 7,
    boxes: Annotated[int, typer.Option(min=1, help="Jittered boxes per image with an object.")] = 512,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps (Lightning's names).")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that load images; 0 loads in the training process.")] = 2,
    seed: Annotated[int, typer.Option(help="Of weights, order and boxes.")] = 0,
) -> None:
    """Train a separate quality network on a trained detector: the predicted IoU of any box, on its features.

    One process, float32; a run that was interrupted cannot be taken up again.
    """
    require_extra(
        "train-iou-net", "train", "torch", "torchvision", "lightning", "yaml", "pycocotools", "cv2", "simplejpeg"
    )
    from calibox_core.layouts import open_dataset
    from calibox_training.checkpoint import load_checkpoint
    from calibox_training.iou_net.spec import JitterSpec, PredictorSpec
    from calibox_training.iou_net.standalone import StandaloneSettings, train_standalone
    from calibox_training.training_spec import Schedule

    model = load_checkpoint(checkpoint)
    settings = StandaloneSettings(
        output=output or Path("runs") / f"{model.recipe.name}-iou-net",
        schedule=Schedule(
            optimizer="adamw", learning_rate=learning_rate, epochs=epochs, batch_size=batch_size, decay="cosine"
        ),
        jitter=JitterSpec(per_image=boxes),
        # The paper's deviation of 0.01 is silent in a narrow network; He's fits any width.
        predictor=PredictorSpec(width=width, pooled=pooled, initialisation="he"),
        seed=seed,
        accelerator=accelerator,
        workers=workers,
    )
    done = train_standalone(model, open_dataset(data or model.recipe.data.name, model.recipe.data), settings)
    measured = "  ".join(f"{name} {value:.4f}" for name, value in done.metrics.items() if value is not None)
    typer.echo(f"{measured}\ncheckpoint: {done.checkpoint}")

"""`calibox attach-quality`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from calibox_core.cli import require_extra

_Detections = "COCO results of the detector on the {} split, instead of --detector; no bundle can be made of them."


_Describe = Annotated[
    Path | None,
    typer.Option(
        help="YAML or JSON that says how to read the file (docs/attach-quality.md); what it leaves out is looked up in "
        "the file or found by trying it on training images."
    ),
]
_Recipe = Annotated[
    Path | None, typer.Option(help="YAML with values of the training: features, predictor, jitter, schedule, ...")
]
_Share = Annotated[float | None, typer.Option(help="Share of the loss that the detector's own boxes carry, 0..1.")]
_Models = Annotated[Path, typer.Option(help="Folder of models; the bundle becomes <models>/<name>/<version>.")]
_Detector = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The detector as an ONNX file.")]


def attach_quality(
    data: Annotated[str, typer.Option(help="Folder in COCO layout, or a name below CALIBOX_DATA.")],
    detector: _Detector = None,
    describe: _Describe = None,
    train_detections: Annotated[Path | None, typer.Option(help=_Detections.format("training"))] = None,
    val_detections: Annotated[Path | None, typer.Option(help=_Detections.format("validation"))] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run; runs/<name> by default.")] = None,
    models: _Models = Path("models"),
    name: Annotated[str, typer.Option(help="Name of the model in its bundle.")] = "attached",
    recipe: _Recipe = None,
    epochs: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    detector_share: _Share = None,
    seed: Annotated[int | None, typer.Option(help="Overrides the recipe.")] = None,
    height: Annotated[int | None, typer.Option(help="Rows of the input; with --train-detections.")] = None,
    width: Annotated[int | None, typer.Option(help="Columns of the input; with --train-detections.")] = None,
    boxes: Annotated[int, typer.Option(min=1, help="Boxes of an image that the bundle passes on.")] = 100,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu or mps, for the training.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes that load images; 0 loads in the training process.")] = 2,
    draws: Annotated[int, typer.Option(min=1, help="Resamplings behind the intervals.")] = 1000,
) -> None:
    """Give somebody else's detector a localization score, without training it again.

    Trains a small network of its own on the detector's boxes that predicts how well each fits, measures AP and
    correlation before and after, and bundles both. From result files alone (--train-detections, --val-detections) no
    bundle can be made: the outcome is the checkpoint, and the validation results with three scores.
    """
    require_extra("attach-quality", "export", "torch", "torchvision", "onnx", "onnxscript", "cv2", "pycocotools")
    require_extra("attach-quality", "cpu", "onnxruntime")
    from calibox_core.layouts import DataLayout, open_dataset
    from calibox_export.attach.description import read_hints
    from calibox_export.attach.run import Options, attach, open_detector, read_ground, run_detector
    from calibox_export.attach.settings import recipe_of, require_one_source

    require_one_source(detector, train_detections, val_detections)
    options = Options(
        output=output or Path("runs") / name,
        models=models,
        boxes=boxes,
        accelerator=accelerator,
        workers=workers,
        draws=draws,
    )
    ground = read_ground(open_dataset(data, DataLayout()))
    schedule = {"schedule.epochs": epochs, "schedule.batch_size": batch_size}
    given: dict[str, Any] = {**schedule, "detector_share": detector_share, "seed": seed}
    file = open_detector(detector, read_hints(describe), ground, options, typer.echo) if detector else None
    size = (file.foreign.spec.height, file.foreign.spec.width) if file else (height, width)
    whole = recipe_of(recipe, name=name, data=data, size=size, given=given)
    if file is not None:
        detections = run_detector(file, whole, ground, options, typer.echo)
    else:
        assert train_detections is not None  # both are there: seen above
        assert val_detections is not None
        detections = {"train": train_detections, "val": val_detections}
    result = attach(whole, ground, detections, options, typer.echo, detector=file)
    typer.echo(f"{'bundle' if file else 'checkpoint'}: {result}")

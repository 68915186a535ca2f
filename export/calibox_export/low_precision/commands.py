"""`calibox quantize`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from calibox_core.cli import require_extra


def quantize(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle in float32, <models>/<name>/<version>.")],
    precision: Annotated[
        Literal["fp16", "bf16", "int8"], typer.Option(help="Of the layers; the last ones and all behind stay float32.")
    ] = "int8",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set that proves it: a folder in the layout of the recipe, or a name below CALIBOX_DATA. Its "
            "val split is measured; int8 takes its ranges from the train split. The bundle's own by default."
        ),
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="Points of AP and of AP75 that it may lose.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Publish it whatever it loses.")] = False,
    calibration_images: Annotated[int, typer.Option(min=1, help="Images that int8 takes its ranges from.")] = 32,
    output: Annotated[Path | None, typer.Option(help="Folder of models; the bundle's own by default.")] = None,
    version: Annotated[
        str | None, typer.Option(help="A whole number; one more than the highest that is there by default.")
    ] = None,
) -> None:
    """Make a bundle of lower precision from one in float32, and measure what that costs."""
    require_extra("quantize", "export", "onnx", "cv2", "simplejpeg", "pycocotools", "ml_dtypes")
    require_extra("quantize", "cpu", "onnxruntime")
    from calibox_core.bundle import MODEL_FILE, read_bundle
    from calibox_core.layouts import layout_of_recipe, open_dataset
    from calibox_export.engines.build import BuildOrder
    from calibox_export.engines.commands import show_accuracy
    from calibox_export.low_precision.quantize import quantise_bundle

    whole = read_bundle(bundle)
    name = data or whole.manifest.dataset.name
    order = BuildOrder(
        precision=precision,
        folder=open_dataset(name, layout_of_recipe(whole.manifest.provenance.recipe)),
        dataset=name,
        limit=limit,
        force=force,
        calibration_images=calibration_images,
    )
    made = quantise_bundle(whole, order, output=output, version=version)
    sizes = " instead of ".join(f"{one.model_path.stat().st_size / 1e6:.1f} MB" for one in (made, whole))
    typer.echo(f"{made.folder}: {MODEL_FILE} in {precision}, {sizes}")
    if made.manifest.lowered_from is not None:
        show_accuracy(made.manifest.lowered_from.accuracy, precision)

"""`calibox build`."""

from pathlib import Path
from typing import Annotated

import typer

from calibox_core.cli import require_extra
from calibox_core.engines import BuiltEngine, Runtime
from calibox_core.precision import Accuracy, Precision


def build(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, <models>/<name>/<version>.")],
    engine: Annotated[Runtime, typer.Option(help="Runtime to build for.")] = "openvino",
    precision: Annotated[Precision, typer.Option(help="Of the arithmetic; below fp32 it is measured first.")] = "fp32",
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set that proves it: a folder in the layout of the recipe, or a name below CALIBOX_DATA. Its "
            "val split is measured; int8 takes its ranges from the train split. The bundle's own below fp32."
        ),
    ] = None,
    limit: Annotated[float, typer.Option(min=0, help="Points of AP and of AP75 that it may lose.")] = 0.5,
    force: Annotated[bool, typer.Option("--force", help="Keep it whatever it loses.")] = False,
    calibration_images: Annotated[int, typer.Option(min=1, help="Images that int8 takes its ranges from.")] = 32,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch that TensorRT plans for.")] = 8,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Device such as sm_89 to build for (tensorrt-rtx); may be repeated. This machine's if none."),
    ] = None,
    embed_plugin: Annotated[
        bool, typer.Option("--embed-plugin", help="Put the operator's plugin into TensorRT's engine, not beside it.")
    ] = False,
) -> None:
    """Build an engine for this machine into the bundle's folder engines/, and measure what its precision costs."""
    require_extra("build", "export", "onnx", "cv2", "simplejpeg", "pycocotools")
    require_extra("build", "cpu", "onnxruntime")
    from calibox_core.bundle import read_bundle
    from calibox_core.layouts import layout_of_recipe, open_dataset
    from calibox_export.engines.backends import BACKENDS
    from calibox_export.engines.build import BuildOrder, build_engine

    whole = read_bundle(bundle)
    proof = None if precision == "fp32" or (force and target) else whole.manifest.dataset.name
    name = data or proof
    folder = open_dataset(name, layout_of_recipe(whole.manifest.provenance.recipe)) if name else None
    order = BuildOrder(
        precision=precision,
        folder=folder,
        dataset=name or "",
        limit=limit,
        force=force,
        calibration_images=calibration_images,
        max_batch=max_batch,
        targets=tuple(target or ()),
        embed_plugin=embed_plugin,
    )
    _show(build_engine(BACKENDS[engine], whole, order))


def _show(built: BuiltEngine) -> None:
    typer.echo(f"{built.folder}: {built.title}, by version {built.record.runtime_version}")
    accuracy = built.record.accuracy
    if accuracy is None:
        typer.echo("its accuracy was not measured: name a data set with --data")
        return
    show_accuracy(accuracy, built.record.precision)


def show_accuracy(accuracy: Accuracy, precision: Precision) -> None:
    """A table of both sides."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{accuracy.dataset}, {accuracy.images} images", box=box.SIMPLE)
    for column in ("", "ONNX file", precision, "difference"):
        table.add_column(column, justify="right")
    for name, reference in accuracy.reference.items():
        engine = accuracy.engine[name]
        if reference is not None and engine is not None:
            table.add_row(name, f"{reference:.4f}", f"{engine:.4f}", f"{engine - reference:+.4f}")
    console = Console()
    console.print(table)
    console.print(
        f"scores of paired detections differ by {accuracy.score_drift:.4f} on average and "
        f"{accuracy.score_drift_max:.4f} at most, boxes by {accuracy.box_drift:.2f} px; "
        f"{accuracy.unpaired:.1%} of the detections have no partner"
    )

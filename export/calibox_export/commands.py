"""`calibox export` and `calibox verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from calibox_core.cli import require_extra

if TYPE_CHECKING:
    from rich.console import Console

    from calibox_export.verify import Report

IouNetOption = Annotated[
    Path | None,
    typer.Option("--iou-net", help="A checkpoint of `calibox train-iou-net`: the bundle's separate quality network."),
]

# Enough that each of the batch sizes runs several times; a few seconds on two cores.
_IMAGES = 24


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint that `calibox train` wrote.")],
    output: Annotated[
        Path, typer.Option(help="Folder of models; the bundle becomes <output>/<name>/<version>.")
    ] = Path("models"),
    version: Annotated[
        str | None, typer.Option(help="A whole number; one more than the highest that is there by default.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; the recipe's by default.")] = None,
    example: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture to put into the bundle, to try it on.")
    ] = None,
    iou_net: IouNetOption = None,
    refine_steps: Annotated[
        int, typer.Option(min=0, help="With --iou-net: most steps of refinement that a request can have; 0 for none.")
    ] = 5,
    refine_default: Annotated[int, typer.Option(min=0, help="With --iou-net: steps of requests that do not say.")] = 0,
    iou_net_boxes: Annotated[
        int, typer.Option(min=1, help="With --iou-net: best boxes by class score that get a predicted IoU.")
    ] = 300,
) -> None:
    """Turn a checkpoint into a bundle: one ONNX graph with post-processing inside, and its manifest."""
    require_extra("export", "export", "torch", "torchvision", "onnx", "onnxscript")
    require_extra("export", "cpu", "onnxruntime")
    from calibox_core.bundle import MODEL_FILE
    from calibox_export.iou_net.part import read_part
    from calibox_export.onnx_export import export_bundle
    from calibox_export.source import load_source, source_of
    from calibox_training.iou_net.spec import RefinementSpec

    source = load_source(checkpoint)
    if iou_net is not None:
        spec = RefinementSpec(steps=refine_steps)
        part = read_part(iou_net, source.trained, refinement=spec, default_steps=refine_default, boxes=iou_net_boxes)
        source = source_of(source.trained, part)
    folder = export_bundle(source, output, name=name, version=version, example=example)
    size = (folder / MODEL_FILE).stat().st_size / 1e6
    typer.echo(f"{folder}: {MODEL_FILE} of {size:.1f} MB; its graph agrees with the network in torch")


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, <models>/<name>/<version>.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="What the bundle was exported from; without it PyTorch is not compared.")
    ] = None,
    iou_net: IouNetOption = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Folder in the layout of the recipe, or a name below CALIBOX_DATA; the bundle's own data by default."
        ),
    ] = None,
    split: Annotated[Literal["train", "val"], typer.Option(help="Whose images are shown to both sides.")] = "val",
    images: Annotated[int, typer.Option(min=1, help="How many, in the order of their ids.")] = _IMAGES,
    engines: Annotated[
        str, typer.Option(help="Built engines to hold against the ONNX file: all, none, a runtime, runtime/precision.")
    ] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Compare PyTorch, the reference, ONNX Runtime and built engines on real images at batch 1, 3 and 8.

    The exit status is 1 when they do not give the same answer; engines of lower precision may drift.
    """
    require_extra("verify", "export", "onnx", "cv2", "simplejpeg", *(["torch", "torchvision"] if checkpoint else []))
    require_extra("verify", "cpu", "onnxruntime")
    from calibox_core.bundle import read_bundle
    from calibox_core.layouts import layout_of_recipe, open_dataset
    from calibox_export.verify import letterboxed_images, verify_bundle

    whole = read_bundle(bundle)
    layout = layout_of_recipe(whole.manifest.provenance.recipe)
    folder = open_dataset(data or whole.manifest.dataset.name, layout)
    report = verify_bundle(
        whole,
        letterboxed_images(folder, split, whole.manifest.input, images),
        checkpoint,
        iou_net=iou_net,
        engines=engines,
    )
    _print_json(report) if as_json else _print_table(report, title=f"{whole.manifest.name}/{whole.manifest.version}")
    if not report.same:
        raise typer.Exit(1)


def _print_json(report: "Report") -> None:
    import json

    typer.echo(json.dumps(report.as_json()))


def _print_table(report: "Report", *, title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from calibox_export.parity import MEANING

    table = Table(title=title, box=box.SIMPLE)  # without inner lines it fits into 80 columns
    table.add_column("compared")
    for column in ("batch", "images", "rows", "score gap", "box gap", "excused", "different"):
        table.add_column(column, justify="right")
    for line in report.comparisons:
        found = line.outcome
        table.add_row(
            line.what,
            *(str(value) for value in (line.batch, line.images, found.compared)),
            f"{found.score_gap:.1e}",
            f"{found.box_gap:.1e}",
            str(found.excused),
            str(found.different),
            style="" if found.different == 0 else "red",
        )
    console = Console()
    console.print(table)
    for what in dict.fromkeys(line.what for line in report.comparisons):
        console.print(f"{what}: {MEANING[what]}")
    console.print(
        "gaps: the largest among paired rows, boxes in pixels; a row of one side only is excused where rounding "
        "decides a near tie, and different otherwise"
    )
    if report.engines:
        _print_engines(report, console)
    if report.note:
        console.print(report.note)
    elif not report.torch_compared:
        console.print("PyTorch was not compared: name the checkpoint with --checkpoint")
    console.print("the same answer" if report.same else "[red]not the same answer[/red]")


def _print_engines(report: "Report", console: "Console") -> None:
    from rich import box
    from rich.table import Table

    table = Table(title="engines against the ONNX file", box=box.SIMPLE)
    table.add_column("engine")
    for column in ("score drift", "most", "box drift", "unpaired", "different"):
        table.add_column(column, justify="right")
    opened = [(line, line.drift) for line in report.engines if line.drift is not None]
    for line, moved in opened:
        table.add_row(
            line.engine,
            *(f"{value:.1e}" for value in (moved.score, moved.score_max, moved.box)),
            f"{moved.unpaired:.1%}",
            "may be" if line.outcome is None else str(line.outcome.different),
            style="" if line.same else "red",
        )
    if opened:
        console.print(table)
    for line in report.engines:
        if line.reason:
            console.print(f"{line.engine} was not compared: {line.reason}")

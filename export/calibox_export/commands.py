"""`calibox export` and `calibox verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from calibox_core.cli import require_extra
from calibox_core.errors import InvalidParameterError
from calibox_export.triton.options import BundleOption, DeviceOption, InstancesOption, MaxBatchOption, TritonOption

if TYPE_CHECKING:
    from rich.console import Console

    from calibox_core.bundle import Bundle
    from calibox_export.chain.run import ChainOrder
    from calibox_export.verify import Report

IouNetOption = Annotated[
    Path | None,
    typer.Option("--iou-net", help="A checkpoint of `calibox train-iou-net`: the bundle's separate quality network."),
]
RefineStepsOption = Annotated[
    int, typer.Option(min=0, help="With --iou-net: most steps of refinement that a request can have; 0 for none.")
]
RefineDefaultOption = Annotated[int, typer.Option(min=0, help="With --iou-net: steps of requests that do not say.")]
IouNetBoxesOption = Annotated[
    int, typer.Option(min=1, help="With --iou-net: best boxes by class score that get a predicted IoU.")
]

CheckpointOption = Annotated[
    Path | None, typer.Option(help="What the bundle was exported from; without it PyTorch is not compared.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        help="Folder in the layout of the recipe, or a name below CALIBOX_DATA; the bundle's own data by default."
    ),
]
SplitOption = Annotated[Literal["train", "val"], typer.Option(help="Whose images are shown to both sides.")]
EnginesOption = Annotated[
    str, typer.Option(help="Built engines to hold against the ONNX file: all, none, a runtime, runtime/precision.")
]
ChainOption = Annotated[
    bool, typer.Option("--chain", help="Follow the answers as far as HTTP, and keep what was measured in the manifest.")
]
LimitOption = Annotated[
    float, typer.Option(min=0, help="With --chain: points of AP and AP75 that an engine below fp32 may lose.")
]

# Enough that each of the batch sizes runs several times; a few seconds on two cores.
_IMAGES = 24
ImagesOption = Annotated[
    int | None,
    typer.Option(min=1, help=f"How many, in the order of their ids: {_IMAGES}, with --chain the whole split."),
]


def export(
    checkpoint: Annotated[Path | None, typer.Argument(help="A checkpoint that `calibox train` wrote.")] = None,
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
    refine_steps: RefineStepsOption = 5,
    refine_default: RefineDefaultOption = 0,
    iou_net_boxes: IouNetBoxesOption = 300,
    triton: TritonOption = None,
    bundle: BundleOption = None,
    triton_device: DeviceOption = "cpu",
    triton_instances: InstancesOption = None,
    triton_max_batch: MaxBatchOption = 8,
) -> None:
    """Turn a checkpoint into a bundle: one ONNX graph with post-processing inside, and its manifest.

    With --triton, that bundle or the one of --bundle becomes a model repository of Triton, too.
    """
    _check_export(checkpoint, bundle, triton)
    if checkpoint is not None:
        spec = (refine_steps, refine_default, iou_net_boxes)
        bundle = _export_checkpoint(checkpoint, output, version, name, example, iou_net, spec)
    if triton is not None and bundle is not None:
        from calibox_export.triton.run import export_repository, layout_of

        for line in export_repository(bundle, triton, layout_of(triton_device, triton_instances, triton_max_batch)):
            typer.echo(line)


def _check_export(checkpoint: Path | None, bundle: Path | None, triton: Path | None) -> None:
    """What can be told before the minutes that a checkpoint takes."""
    if (checkpoint is None) == (bundle is None) or (bundle is not None and triton is None):
        raise InvalidParameterError(
            "name what to export: a checkpoint, or with --triton DIR a bundle that is there (--bundle models/bccd/1)"
        )
    if triton is not None and triton.exists():
        raise InvalidParameterError(f"{triton} exists; name a folder that is not there yet, or remove it first")


def _export_checkpoint(
    checkpoint: Path,
    output: Path,
    version: str | None,
    name: str | None,
    example: Path | None,
    iou_net: Path | None,
    refinement: tuple[int, int, int],
) -> Path:
    """The bundle's folder."""
    require_extra("export", "export", "torch", "torchvision", "onnx", "onnxscript")
    require_extra("export", "cpu", "onnxruntime")
    from calibox_core.bundle import MODEL_FILE
    from calibox_export.iou_net.part import read_part
    from calibox_export.onnx_export import export_bundle
    from calibox_export.source import load_source, source_of
    from calibox_training.iou_net.spec import RefinementSpec

    source = load_source(checkpoint)
    if iou_net is not None:
        steps, default, boxes = refinement
        spec = RefinementSpec(steps=steps)
        part = read_part(iou_net, source.trained, refinement=spec, default_steps=default, boxes=boxes)
        source = source_of(source.trained, part)
    folder = export_bundle(source, output, name=name, version=version, example=example)
    size = (folder / MODEL_FILE).stat().st_size / 1e6
    typer.echo(f"{folder}: {MODEL_FILE} of {size:.1f} MB; its graph agrees with the network in torch")
    return folder


def verify(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, <models>/<name>/<version>.")],
    checkpoint: CheckpointOption = None,
    iou_net: IouNetOption = None,
    data: DataOption = None,
    split: SplitOption = "val",
    images: ImagesOption = None,
    engines: EnginesOption = "all",
    chain: ChainOption = False,
    limit: LimitOption = 0.5,
    store: Annotated[bool, typer.Option(help="With --chain: write the certificate into the manifest.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")] = False,
) -> None:
    """Compare PyTorch, the reference, ONNX Runtime and built engines on real images at batch 1, 3 and 8.

    With --chain each place from PyTorch to HTTP is held against the one before it, an image at a time. The exit status
    is 1 when they do not give the same answer; engines of lower precision may drift, with --chain within the limit.
    """
    require_extra("verify", "export", "onnx", "cv2", "simplejpeg", *(["torch", "torchvision"] if checkpoint else []))
    require_extra("verify", "cpu", "onnxruntime")
    from calibox_core.bundle import read_bundle
    from calibox_core.layouts import layout_of_recipe, open_dataset
    from calibox_export.verify import letterboxed_images, verify_bundle

    whole = read_bundle(bundle)
    dataset = data or whole.manifest.dataset.name
    folder = open_dataset(dataset, layout_of_recipe(whole.manifest.provenance.recipe))
    if chain:
        from calibox_export.chain.run import ChainOrder

        order = ChainOrder(
            folder=folder,
            dataset=Path(dataset).name,
            split=split,
            images=images,
            checkpoint=checkpoint,
            iou_net=iou_net,
            engines=engines,
            limit=limit,
            tell=(lambda _: None) if as_json else _progress,
        )
        _follow(whole, order, store=store, as_json=as_json)
        return
    report = verify_bundle(
        whole,
        letterboxed_images(folder, split, whole.manifest.input, images or _IMAGES),
        checkpoint,
        iou_net=iou_net,
        engines=engines,
    )
    _print_json(report) if as_json else _print_table(report, title=f"{whole.manifest.name}/{whole.manifest.version}")
    if not report.same:
        raise typer.Exit(1)


def _progress(place: str) -> None:
    typer.echo(f"asking {place} ...", err=True)


def _follow(bundle: "Bundle", order: "ChainOrder", *, store: bool, as_json: bool) -> None:
    """`--chain`."""
    require_extra("verify --chain", "server", "fastapi", "uvicorn")
    require_extra("verify --chain", "eval", "pycocotools")
    from calibox_export.chain.certificate import keep, show, verdict
    from calibox_export.chain.run import verify_chain

    parity = verify_chain(bundle, order)
    if store:
        keep(bundle, parity)
    if as_json:
        typer.echo(parity.model_dump_json())
    else:
        show(parity, title=f"{bundle.manifest.name}/{bundle.manifest.version}")
    typer.echo(verdict(parity), err=as_json)
    if parity.broken is not None:
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

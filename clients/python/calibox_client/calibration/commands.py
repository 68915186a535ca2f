"""`calibox calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from calibox_client.calibration.choices import Means, Metric
from calibox_client.evaluation.commands import (
    AnnotationsOption,
    ConcurrencyOption,
    DataOption,
    ImagesOption,
    JsonOption,
    LayoutOption,
    RestartOption,
    SplitOption,
)
from calibox_core.cli import require_extra

BundleArgument = Annotated[Path, typer.Argument(help="Folder of the bundle, <name>/<version>.")]
ServerOption = Annotated[
    str | None,
    typer.Option(
        help="A running server that serves this very bundle; a key for it is read from CALIBOX_API_KEY. Default: one "
        "is started for it on this machine, and stopped afterwards.",
        metavar="URL",
    ),
]
PrecisionOption = Annotated[
    list[float] | None,
    typer.Option(help="An operating point with this precision (0 to 1); repeatable.", metavar="RATE"),
]
RecallOption = Annotated[
    list[float] | None,
    typer.Option(help="An operating point with this recall (0 to 1); repeatable.", metavar="RATE"),
]
MatchIouOption = Annotated[
    float, typer.Option(min=0.5, max=0.95, help="A detection is right when its IoU with an object is at least this.")
]
ConfidenceOption = Annotated[
    float,
    typer.Option(
        min=0.5,
        max=0.999,
        help="How sure a rate has to be: the one-sided Wilson bound of this confidence must reach it. 0.5 is the rate "
        "itself.",
    ),
]
PerClassOption = Annotated[
    bool, typer.Option("--per-class/--one-threshold", help="Whether each class gets a threshold of its own.")
]
MeansOption = Annotated[
    Means,
    typer.Option(
        "--score-means",
        help="What a score should announce: the share of right detections, their mean IoU, or nothing new (none).",
    ),
]
MetricOption = Annotated[Metric, typer.Option("--choose-by", help="What rankings are compared by.")]
KeepOption = Annotated[
    bool, typer.Option("--keep-fusion", help="Keep the model's ranking: one pass, any engine, refined boxes too.")
]
AlwaysOption = Annotated[
    bool, typer.Option("--always", help="Take the best ranking even where its gain may be chance.")
]
VersionOption = Annotated[str | None, typer.Option(help="Version to write; one above the highest by default.")]
ModelsOption = Annotated[
    Path | None, typer.Option(help="Folder of models to write into; the bundle's own by default.", metavar="DIR")
]
OutputOption = Annotated[
    Path, typer.Option(help="Everything that was measured, as JSON; the journals of a run lie beside it.")
]
ReportOption = Annotated[Path | None, typer.Option(help="Write a page with plots.", metavar="FILE.html")]


def calibrate(
    bundle: BundleArgument,
    data: DataOption = None,
    split: SplitOption = "val",
    layout: LayoutOption = "coco",
    images: ImagesOption = None,
    annotations: AnnotationsOption = None,
    server: ServerOption = None,
    precision: PrecisionOption = None,
    recall: RecallOption = None,
    match_iou: MatchIouOption = 0.5,
    confidence: ConfidenceOption = 0.5,
    per_class: PerClassOption = True,
    score_means: MeansOption = Means.PRECISION,
    choose_by: MetricOption = Metric.AP,
    keep_fusion: KeepOption = False,
    always: AlwaysOption = False,
    version: VersionOption = None,
    models: ModelsOption = None,
    output: OutputOption = Path("calibration.json"),
    report: ReportOption = None,
    concurrency: ConcurrencyOption = 8,
    restart: RestartOption = False,
    as_json: JsonOption = False,
) -> None:
    """Choose a bundle's ranking, score map and thresholds on half of the data, and write them as its next version.

    What is chosen on the images at even positions by id is told of the others. The new version has the same graph; it
    offers named operating points, such as precision90 with --precision 0.9.

    Interrupted, it keeps its answers; the same command then goes on from there.
    """
    require_extra("calibrate", "eval", "pycocotools", "cv2", *(("matplotlib",) if report else ()))
    from calibox_client.calibration.order import Calibration
    from calibox_client.calibration.points import read_wanted
    from calibox_client.calibration.telling import calibrate_and_tell
    from calibox_client.evaluation.source import open_source

    asked = Calibration(
        bundle=bundle,
        source=open_source(images, annotations, data, split, layout),
        dataset=data or str(annotations),
        split=split if data else "",
        output=output,
        server=server,
        models=models,
        version=version,
        concurrency=concurrency,
        restart=restart,
        metric=choose_by,
        keep_fusion=keep_fusion,
        always=always,
        means=score_means,
        match_iou=match_iou,
        wanted=read_wanted(precision or [], recall or [], match_iou, confidence),
        per_class=per_class,
    )
    calibrate_and_tell(asked, report=report, as_json=as_json)

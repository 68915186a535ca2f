"""`calibox eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from calibox_client.evaluation.choices import Half, RankBy
from calibox_client.options import (
    ActorCoresOption,
    ActorGpusOption,
    ActorsOption,
    AlphaOption,
    BundleOption,
    ClassesOption,
    FusionOption,
    IouThresholdOption,
    ModelOption,
    OperatingPointOption,
    RayOption,
    RefineOption,
    ServerOption,
    SigmaOption,
    TimeoutMsOption,
    VersionOption,
    given,
)
from calibox_core.cli import require_extra

if TYPE_CHECKING:
    from calibox_client.commands.offline_command import ShareOfCluster
    from calibox_client.offline import Offline

# httpx2 opens 100 connections at most.
_MOST_AT_ONCE = 100


ImagesOption = Annotated[
    Path | None, typer.Option(help="Folder that the annotations' file_name is relative to.", metavar="DIR")
]
AnnotationsOption = Annotated[Path | None, typer.Option(help="COCO annotation file.", metavar="FILE")]
DataOption = Annotated[
    str | None,
    typer.Option(help="Instead of both: a data folder, or a name below CALIBOX_DATA.", metavar="DIR"),
]
SplitOption = Annotated[Literal["train", "val"], typer.Option(help="Split of --data.")]
LayoutOption = Annotated[
    str, typer.Option(help="Layout of --data: coco, voc, kitti, or a JSON object as in a recipe's data section.")
]
OutputOption = Annotated[
    Path, typer.Option(help="COCO results with all three scores; the journal of a run lies beside it.")
]
ConcurrencyOption = Annotated[int, typer.Option(min=1, max=_MOST_AT_ONCE, help="Requests in flight at most.")]
HalfOption = Annotated[Half, typer.Option(help="Images at even (calibration) or odd (test) positions by id, or all.")]
RankByOption = Annotated[RankBy, typer.Option(help="Score that orders detections for AP.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Drop the answers of an interrupted run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, and nothing else.")]
ScoreThresholdOption = Annotated[
    float | None,
    typer.Option(
        help="Lowest reported score (0 to 1). AP needs the whole curve: 0 unless an --operating-point is named."
    ),
]
MaxDetectionsOption = Annotated[
    int | None,
    typer.Option(help="Detections per image. 100, what COCO measures on, or the model's limit where it is lower."),
]
SweepOption = Annotated[
    bool,
    typer.Option(
        "--sweep",
        help="Fetch raw score pairs once, try every fusion offline, choose on the calibration half, and confirm the "
        "best on the test half.",
    ),
]
ReportOption = Annotated[
    Path | None, typer.Option(help="Write a page with plots, and its numbers beside it.", metavar="FILE.html")
]
CompareOption = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        help="Instead of asking a server: hold the second of two results files against the first, on the same images.",
        metavar="A.json B.json",
    ),
]
FailUnderOption = Annotated[
    list[str] | None,
    typer.Option(help="Exit with status 3 where a metric is below this (0 to 1); repeatable.", metavar="AP=0.30"),
]


def evaluate(
    images: ImagesOption = None,
    annotations: AnnotationsOption = None,
    data: DataOption = None,
    split: SplitOption = "val",
    layout: LayoutOption = "coco",
    server: ServerOption = "http://127.0.0.1:8000",
    output: OutputOption = Path("results.json"),
    concurrency: ConcurrencyOption = 8,
    half: HalfOption = Half.ALL,
    rank_by: RankByOption = RankBy.SCORE,
    restart: RestartOption = False,
    as_json: JsonOption = False,
    fusion: FusionOption = None,
    alpha: AlphaOption = None,
    sigma: SigmaOption = None,
    operating_point: OperatingPointOption = None,
    score_threshold: ScoreThresholdOption = None,
    iou_threshold: IouThresholdOption = None,
    max_detections: MaxDetectionsOption = None,
    classes: ClassesOption = None,
    refine: RefineOption = None,
    model: ModelOption = None,
    version: VersionOption = None,
    timeout_ms: TimeoutMsOption = None,
    sweep: SweepOption = False,
    report: ReportOption = None,
    compare: CompareOption = None,
    fail_under: FailUnderOption = None,
    ray: RayOption = False,
    bundle: BundleOption = None,
    actors: ActorsOption = None,
    actor_cores: ActorCoresOption = 1,
    actor_gpus: ActorGpusOption = 0.0,
) -> None:
    """Measure a live server on annotated pictures: accuracy, calibration of the scores, throughput and latency.

    Interrupted, it keeps its answers; the same command then goes on from there. Asks with --score-threshold 0 and
    --max-detections 100 unless told otherwise; at an --operating-point, precision and recall are told too. Exit
    status: 0, 1 for an error, 3 where --fail-under is missed.
    """
    require_extra("eval", "eval", "pycocotools", "faster_coco_eval", *(("matplotlib",) if report else ()))
    from calibox_client.evaluation.compare import compare_and_tell, refuse_beside_compare
    from calibox_client.evaluation.evaluate import Evaluation
    from calibox_client.evaluation.source import open_source
    from calibox_client.evaluation.telling import evaluate_and_tell

    server, offline = _asked(server, ray, bundle, (actors, actor_cores, actor_gpus), (sweep, compare, model))
    source = open_source(images, annotations, data, split, layout)
    if compare is not None:
        refuse_beside_compare({"--sweep": sweep, "--report": report, "--fail-under": fail_under})
        compare_and_tell(compare, source, half, rank_by, as_json=as_json)
        return
    fusing = {"fusion": fusion, "alpha": alpha, "sigma": sigma, "operating_point": operating_point}
    thresholds = {"score_threshold": _least(score_threshold, operating_point), "iou_threshold": iou_threshold}
    others = {"max_detections": max_detections, "classes": classes, "refine": refine, "timeout_ms": timeout_ms}
    parameters = given({**fusing, **thresholds, **others})
    at = (server, source, output, concurrency, half, rank_by, restart, model, version)
    evaluation = Evaluation(*at, parameters, sweep, offline)
    evaluate_and_tell(evaluation, report=report, fail_under=fail_under or [], as_json=as_json)


def _least(score_threshold: float | None, operating_point: str | None) -> float | None:
    """Everything, unless there is a threshold or the operating point has one."""
    return 0.0 if score_threshold is None and operating_point is None else score_threshold


def _asked(
    server: str, ray: bool, bundle: Path | None, actors: "ShareOfCluster", others: tuple[object, object, object]
) -> "tuple[str, Offline | None]":
    """The server, or actors in place of it with what they are called."""
    if not ray:
        return server, None
    from calibox_client.commands.offline_command import offline_of

    refused = dict(zip(("--sweep", "--compare", "--model"), map(bool, others), strict=True))
    return f"ray, {bundle}", offline_of("eval", bundle, actors, refused)

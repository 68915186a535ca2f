"""`calibox detect`."""

from pathlib import Path
from typing import Annotated

import typer

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
    OverlapOption,
    PriorityOption,
    RayOption,
    RefineOption,
    ServerOption,
    SigmaOption,
    TileOption,
    TimeoutMsOption,
    VersionOption,
    given,
)

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Images, folders (the images directly in them), quoted patterns, videos, rtsp:// addresses; - is an image "
        "on standard input."
    ),
]
CameraOption = Annotated[int | None, typer.Option(min=0, help="Index of a camera, 0 for the first.", metavar="INDEX")]
FramesOption = Annotated[int | None, typer.Option(min=1, help="Stop each video or camera after so many frames.")]
EveryOption = Annotated[int, typer.Option(min=1, help="Of videos, send only every so many-th frame.")]
SaveOption = Annotated[
    Path | None, typer.Option(help="Folder for copies with boxes and scores drawn; videos as .mp4.", metavar="DIR")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON line per image or frame, and nothing else.")]
ConcurrencyOption = Annotated[int, typer.Option(min=1, max=100, help="Requests for images in flight at most.")]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        help="With --ray: file of one JSON line per image, in their order; interrupted, the same command goes on.",
        metavar="FILE",
    ),
]
ScoreThresholdOption = Annotated[
    float | None, typer.Option(help="Lowest reported score (0 to 1); the model's own when left out.")
]
MaxDetectionsOption = Annotated[int | None, typer.Option(help="Detections per image, best first.")]


def detect(
    images: ImagesArgument = None,
    camera: CameraOption = None,
    server: ServerOption = "http://127.0.0.1:8000",
    save: SaveOption = None,
    as_json: JsonOption = False,
    frames: FramesOption = None,
    every: EveryOption = 1,
    concurrency: ConcurrencyOption = 8,
    fusion: FusionOption = None,
    alpha: AlphaOption = None,
    sigma: SigmaOption = None,
    operating_point: OperatingPointOption = None,
    score_threshold: ScoreThresholdOption = None,
    iou_threshold: IouThresholdOption = None,
    max_detections: MaxDetectionsOption = None,
    classes: ClassesOption = None,
    refine: RefineOption = None,
    tile: TileOption = None,
    overlap: OverlapOption = None,
    priority: PriorityOption = None,
    model: ModelOption = None,
    version: VersionOption = None,
    timeout_ms: TimeoutMsOption = None,
    ray: RayOption = False,
    bundle: BundleOption = None,
    output: OutputOption = None,
    actors: ActorsOption = None,
    actor_cores: ActorCoresOption = 1,
    actor_gpus: ActorGpusOption = 0.0,
) -> None:
    """Find objects in images, videos or before a camera: print them, or draw them with their three scores.

    What fails is reported and the others go on; the exit status is then 1. It is 4 when the server cannot be reached.
    """
    from calibox_client.commands.asking import Asked, ask_about

    fusing = {"fusion": fusion, "alpha": alpha, "sigma": sigma, "operating_point": operating_point}
    thresholds = {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
    others = {"max_detections": max_detections, "classes": classes, "refine": refine, "timeout_ms": timeout_ms}
    target = {"model": model, "version": version, "tile": tile, "overlap": overlap, "priority": priority}
    if not images and camera is None:
        raise typer.BadParameter("name an image, a folder, a video, - for standard input, or a --camera")
    parameters = given({**fusing, **thresholds, **others, **target})
    if ray:
        from calibox_client.commands.offline_command import detect_on_ray

        refused = {"--camera": camera is not None, "--save": save is not None, "--json": as_json}
        share = (actors, actor_cores, actor_gpus)
        detect_on_ray(images or [], bundle, output, share, parameters, refused)
        return
    asked = Asked(images or [], camera, server, save, as_json, frames, every, concurrency, parameters)
    if ask_about(asked):
        raise typer.Exit(1)

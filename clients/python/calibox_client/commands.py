"""`calibox detect`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibox_client.options import (
    AlphaOption,
    ClassesOption,
    FusionOption,
    IouThresholdOption,
    ModelOption,
    OverlapOption,
    PriorityOption,
    RefineOption,
    ServerOption,
    SigmaOption,
    TileOption,
    TimeoutMsOption,
    VersionOption,
    given,
    key_headers,
)
from calibox_core.errors import CaliboxError

if TYPE_CHECKING:
    from calibox_client import Client, Detections


# Refusals of the whole call: with these no other image would fare better.
_NOT_ABOUT_THE_IMAGE = frozenset({"invalid_parameter", "unknown_model", "unauthorized"})


class DetectCommandError(CaliboxError):
    """`calibox detect` cannot start or go on; the text says why."""


ImagesArgument = Annotated[
    list[str], typer.Argument(help="Image files, folders (the images directly in them) or quoted patterns.")
]
SaveOption = Annotated[Path | None, typer.Option(help="Folder for copies with boxes and scores drawn.", metavar="DIR")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON line per image, and nothing else.")]
ScoreThresholdOption = Annotated[
    float | None, typer.Option(help="Lowest reported score (0 to 1); the model's own when left out.")
]
MaxDetectionsOption = Annotated[int | None, typer.Option(help="Detections per image, best first.")]


def detect(
    images: ImagesArgument,
    server: ServerOption = "http://127.0.0.1:8000",
    save: SaveOption = None,
    as_json: JsonOption = False,
    fusion: FusionOption = None,
    alpha: AlphaOption = None,
    sigma: SigmaOption = None,
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
) -> None:
    """Find objects in images: print them, or draw them with their three scores.

    An image that fails is reported and the others go on; the exit status is then 1.
    """
    fusing = {"fusion": fusion, "alpha": alpha, "sigma": sigma}
    thresholds = {"score_threshold": score_threshold, "iou_threshold": iou_threshold}
    others = {"max_detections": max_detections, "classes": classes, "refine": refine, "timeout_ms": timeout_ms}
    target = {"model": model, "version": version, "tile": tile, "overlap": overlap, "priority": priority}
    failed, total = _detect_all(images, server, save, as_json, given({**fusing, **thresholds, **others, **target}))
    if failed:
        _tell(f"{failed} of {total} failed")
        raise typer.Exit(1)


def _detect_all(
    images: list[str], server: str, save: Path | None, as_json: bool, parameters: Mapping[str, Any]
) -> tuple[int, int]:
    """How many failed, and of how many.

    Raises:
        DetectCommandError: it cannot start, or no image would fare better than the one that failed.
    """
    from calibox_client.client import Client
    from calibox_client.picture_files import find_pictures, plan_copies

    try:
        pictures, unknown = find_pictures(images)
        copies = plan_copies(pictures, save) if save is not None else {}
        client = Client(server, headers=key_headers())
    except (OSError, ValueError) as error:
        raise DetectCommandError(str(error)) from error
    for sentence in unknown:
        _tell(sentence)
    with client:
        went_well = [_detect_one(client, p.path, parameters, copies.get(p.path), as_json) for p in pictures]
    return len(unknown) + went_well.count(False), len(unknown) + len(pictures)


def _detect_one(
    client: "Client", picture: Path, parameters: Mapping[str, Any], copy: Path | None, as_json: bool
) -> bool:
    """Whether it went well; what did not is told on standard error.

    Raises:
        DetectCommandError: the server cannot be reached or refuses the parameters, whatever the image.
    """
    from calibox_client.errors import ApiError, BadReplyError, CaliboxClientError, ServerUnreachableError
    from calibox_client.picture_files import save_whole

    try:
        found = client.detect(picture, **parameters)
        if copy is not None:
            save_whole(found.draw(picture), copy)
    except (ServerUnreachableError, BadReplyError) as error:
        raise DetectCommandError(str(error)) from error
    except (CaliboxClientError, OSError) as error:
        if isinstance(error, ApiError) and error.code in _NOT_ABOUT_THE_IMAGE:
            raise DetectCommandError(str(error)) from error
        _tell(f"{picture}: {error}")
        return False
    _show(picture, found, copy, as_json)
    return True


def _show(picture: Path, found: "Detections", copy: Path | None, as_json: bool) -> None:
    if as_json:
        saved = {} if copy is None else {"saved": str(copy)}
        typer.echo(json.dumps({"image": str(picture), **saved, **found.as_json()}))
    elif copy is not None:
        typer.echo(f"{picture}: {len(found)} detections, drawn in {copy}")
    else:
        _print_table(picture, found)


def _print_table(picture: Path, found: "Detections") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    title = f"{picture}  {found.width} x {found.height}  {found.model}/{found.version}"
    table = Table("class", title=Text(title), title_justify="left", caption=None if len(found) else "nothing found")
    for column in ("score", "classification", "localization", "box (x1, y1, x2, y2)"):
        table.add_column(column, justify="right")
    for one in found:
        scores = (one.score, one.classification_score, one.localization_score)
        box = ", ".join(f"{value:.1f}" for value in one.box)
        table.add_row(Text(one.label), *(f"{value:.3f}" for value in scores), box)
    Console().print(table)


def _tell(sentence: str) -> None:
    typer.secho(sentence, err=True, fg=typer.colors.RED)

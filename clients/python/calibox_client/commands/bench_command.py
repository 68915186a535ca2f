"""`calibox bench`."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from calibox_client.commands.failures import CommandError, ServerAwayError, command_error, tell, tell_of_retry
from calibox_client.options import (
    FusionOption,
    ModelOption,
    OperatingPointOption,
    PriorityOption,
    RefineOption,
    ServerOption,
    TileOption,
    TimeoutMsOption,
    VersionOption,
    given,
    key_headers,
)

if TYPE_CHECKING:
    from calibox_client.bench.wire import Target

ImagesArgument = Annotated[
    list[str], typer.Argument(help="Images, folders or quoted patterns; sent in turn, from memory.")
]
ConcurrencyOption = Annotated[
    str, typer.Option(help="Closed loops: requests that are kept under way, several numbers with commas.")
]
RateOption = Annotated[
    str | None,
    typer.Option(help="Open loops instead: requests per second at random moments, several numbers with commas."),
]
SecondsOption = Annotated[float, typer.Option(min=0.1, help="Measured seconds of each loop.")]
WarmUpOption = Annotated[float, typer.Option(min=0, help="Seconds before, which are not measured.")]
SeedOption = Annotated[int, typer.Option(help="Of the moments of open loops.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object per loop, and nothing else.")]
_MOST_BYTES = 2**30  # of images in memory


def bench(
    images: ImagesArgument,
    server: ServerOption = "http://127.0.0.1:8000",
    concurrency: ConcurrencyOption = "1,8,32",
    rate: RateOption = None,
    seconds: SecondsOption = 10.0,
    warm_up: WarmUpOption = 1.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
    fusion: FusionOption = None,
    operating_point: OperatingPointOption = None,
    refine: RefineOption = None,
    tile: TileOption = None,
    priority: PriorityOption = None,
    model: ModelOption = None,
    version: VersionOption = None,
    timeout_ms: TimeoutMsOption = None,
) -> None:
    """Measure how fast a running server answers: throughput, latencies, and where the time goes.

    Nothing is repeated. The exit status is 1 when any request failed, and 4 when the server cannot be reached.
    """
    from calibox_client.errors import CaliboxClientError

    wanted = {"fusion": fusion, "refine": refine, "tile": tile, "priority": priority, "timeout_ms": timeout_ms}
    parameters = given({**wanted, "operating_point": operating_point, "model": model, "version": version})
    loads = [{"mode": "closed", "concurrency": int(n)} for n in _numbers("--concurrency", concurrency, whole=True)]
    if rate is not None:
        loads = [{"mode": "open", "rate": n, "seed": seed} for n in _numbers("--rate", rate, whole=False)]
    try:
        about, target, requests = _prepare(server, images, parameters)
        rows = [_measure(target, requests, load, warm_up, seconds, about) for load in loads]
    except (CaliboxClientError, OSError, ValueError) as error:
        raise command_error(error) from error
    _report(rows, as_json=as_json)
    if any(row["errors"] for row in rows):
        raise typer.Exit(1)


def _prepare(
    server: str, images: Sequence[str], parameters: Mapping[str, Any]
) -> tuple[dict[str, Any], "Target", list[bytes]]:
    """What answers, where it is, and the requests.

    Raises:
        CaliboxClientError: the server refuses the first image, or cannot be reached.
    """
    from calibox_client.bench.wire import Target, request_bytes
    from calibox_client.client import Client
    from calibox_client.exchange import default_headers
    from calibox_client.images import encode_image
    from calibox_client.picture_files import find_pictures
    from calibox_client.requests import detect_request

    pictures, unknown = find_pictures(images)
    for sentence in unknown:
        tell(sentence)
    if not pictures:
        raise CommandError("there is no image to send")
    if sum(picture.path.stat().st_size for picture in pictures) > _MOST_BYTES:
        raise CommandError("these images have more than 1 GB, and all are kept in memory; name fewer")
    encoded = [encode_image(picture.path) for picture in pictures]
    with Client(server, headers=key_headers(), on_retry=tell_of_retry) as client:
        found = client.detect(encoded[0].data, **parameters)
        target = Target.of(client.url)
    headers = default_headers(key_headers())
    requests = [detect_request([image], batch=False, parameters=parameters) for image in encoded]
    about = {"server": server, "model": found.model, "version": found.version, "images": len(encoded)}
    return about, target, [request_bytes(target, request, headers) for request in requests]


def _measure(
    target: "Target",
    requests: list[bytes],
    load: Mapping[str, Any],
    warm_up: float,
    seconds: float,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    from calibox_client.bench.loops import closed_loop, open_loop
    from calibox_client.bench.summary import summary_of
    from calibox_client.interruptible import run_interruptible

    options = {name: value for name, value in load.items() if name != "mode"}
    loop = open_loop if load["mode"] == "open" else closed_loop
    try:
        tally = run_interruptible(loop(target, requests, **options, warm_up=warm_up, seconds=seconds))
    except TimeoutError as error:
        raise ServerAwayError("the server still owes answers a minute after the last request") from error
    except ExceptionGroup as errors:
        raise command_error(errors.exceptions[0]) from errors
    return summary_of(tally, {**about, **load})


def _report(rows: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    from calibox_client.bench.summary import show

    if as_json:
        for row in rows:
            typer.echo(json.dumps(row))
    else:
        show(rows)


def _numbers(option: str, text: str, *, whole: bool) -> list[float]:
    try:
        numbers = [float(int(part) if whole else float(part)) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number <= 1e6 for number in numbers):
        kind = "whole numbers" if whole else "numbers"
        raise typer.BadParameter(f"{option} takes {kind} above 0 with commas between them, not {text!r}")
    return numbers

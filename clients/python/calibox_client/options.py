"""Command-line options that `calibox detect` and `calibox eval` share."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

ServerOption = Annotated[
    str,
    typer.Option(
        "--server",
        envvar="CALIBOX_SERVER",
        help="Address of the server; a key for it is read from CALIBOX_API_KEY.",
        metavar="URL",
    ),
]
FusionOption = Annotated[
    Literal["classification", "product", "geometric", "power", "gaussian", "localization"] | None,
    typer.Option(help="How the two scores become the ranking; the model's own when left out."),
]
AlphaOption = Annotated[
    float | None, typer.Option(help="Exponent of the fusions geometric (0 to 1) and power (at least 0).")
]
SigmaOption = Annotated[float | None, typer.Option(help="Width of the fusion gaussian, above 0.")]
OperatingPointOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="One of the model's operating points: its fusion and score thresholds, where no other is given.",
    ),
]
IouThresholdOption = Annotated[float | None, typer.Option(help="Boxes that overlap more are suppressed (IoU, 0 to 1).")]
ClassesOption = Annotated[
    list[str] | None, typer.Option("--classes", help="Return only this class, a name or a category id; repeatable.")
]
RefineOption = Annotated[
    str | None,
    typer.Option(
        metavar="true|false|STEPS",
        help="Move boxes to where the model predicts a better fit, or in so many steps; as the model's manifest says "
        "when left out.",
    ),
]
TileOption = Annotated[
    str | None,
    typer.Option(
        metavar="true|false|PIXELS",
        help="Cut each image into tiles of so many pixels, or of the model's own size, and look at them too: for small "
        "objects in large images.",
    ),
]
OverlapOption = Annotated[float | None, typer.Option(help="Least overlap of tiles, as a share of one (0 to 0.9).")]
PriorityOption = Annotated[Literal["high", "normal"] | None, typer.Option(help="Whether to go before other requests.")]
ModelOption = Annotated[str | None, typer.Option(help="Name of the model; the server's default when left out.")]
VersionOption = Annotated[str | None, typer.Option(help="Version of the model; the newest when left out.")]
TimeoutMsOption = Annotated[
    float | None, typer.Option(help="The server gives up a request after this many milliseconds.")
]

RayOption = Annotated[
    bool,
    typer.Option(
        "--ray",
        help="Ask no server: actors hold the --bundle, on the Ray cluster that RAY_ADDRESS names, or on this machine.",
    ),
]
BundleOption = Annotated[
    Path | None, typer.Option(help="With --ray: folder of one version of one model.", metavar="DIR")
]
ActorsOption = Annotated[
    int | None, typer.Option(min=1, help="With --ray: actors; as many as there is room for when left out.")
]
ActorCoresOption = Annotated[int, typer.Option(min=1, help="With --ray: cores of each actor.")]
ActorGpusOption = Annotated[float, typer.Option(min=0, help="With --ray: GPUs of each actor, or a share of one.")]


def key_headers() -> dict[str, str]:
    """Shows the key of CALIBOX_API_KEY; nothing where there is none. No option: every process sees command lines."""
    key = os.environ.get("CALIBOX_API_KEY", "")
    return {"Authorization": f"Bearer {key}"} if key else {}


def given(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that were given: without None and without empty lists."""
    return {name: value for name, value in parameters.items() if value is not None and value != []}

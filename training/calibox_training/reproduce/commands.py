"""`calibox reproduce`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from calibox_core.cli import require_extra

OnlyData = Annotated[
    list[str] | None, typer.Option("--data", help="Only this data set, by name or name=FOLDER; may be repeated.")
]
OnlySystem = Annotated[list[str] | None, typer.Option("--only", help="Only this system; may be repeated.")]


def reproduce(
    what: Annotated[
        Literal["papers", "iou-net"],
        typer.Argument(help="papers: the comparisons of all of them. iou-net: IoU-Net's own figures and tables."),
    ],
    budget: Annotated[
        Literal["cpu", "gpu"], typer.Option(help="Plan: cpu (two cores; papers two hours, iou-net one) or gpu.")
    ] = "cpu",
    data: OnlyData = None,
    output: Annotated[Path, typer.Option(help="Where <what>.md and <what>/ are written.")] = Path("docs/results"),
    runs: Annotated[Path | None, typer.Option(help="Where cells are trained; runs/<what> where left out.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 2,
    only: OnlySystem = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Overrides the plan's budget.")] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Folder of your own plan: systems.yaml, <budget>.yaml, tables.yaml.")
    ] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report from the results there.")
    ] = False,
) -> None:
    """Run the papers' comparisons and write their tables. The same command goes on where it was stopped."""
    require_extra(
        f"reproduce {what}",
        "reproduce",
        "torch",
        "torchvision",
        "lightning",
        "yaml",
        "pycocotools",
        "cv2",
        "scipy",
        "matplotlib",
    )
    from calibox_training.reproduce.papers import Request, reproduce_papers
    from calibox_training.reproduce.plan import PLANS
    from calibox_training.reproduce_iou_net import comparison

    run, own = (reproduce_papers, PLANS) if what == "papers" else (comparison.reproduce_iou_net, comparison.PLANS)
    named = dict(_name_and_folder(word) for word in data or [])
    request = Request(
        budget=budget,
        data=named,
        only=tuple(only or ()),
        output=output,
        runs=runs or Path("runs") / what,
        processes=processes,
        minutes=minutes,
        plan=plan or own,
    )
    run(request, report_only=report_only, say=typer.echo)


def _name_and_folder(word: str) -> tuple[str, str]:
    name, _, folder = word.partition("=")
    return name, folder or name

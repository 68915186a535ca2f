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
    what: Annotated[Literal["papers"], typer.Argument(help="What to reproduce: papers.")],
    budget: Annotated[Literal["cpu", "gpu"], typer.Option(help="Plan: cpu (two cores, two hours) or gpu.")] = "cpu",
    data: OnlyData = None,
    output: Annotated[Path, typer.Option(help="Where papers.md and papers/ are written.")] = Path("docs/results"),
    runs: Annotated[Path, typer.Option(help="Where cells are trained.")] = Path("runs/papers"),
    processes: Annotated[int, typer.Option(min=1, help="Trainings at once.")] = 2,
    only: OnlySystem = None,
    minutes: Annotated[float | None, typer.Option(min=0, help="Overrides the plan's budget.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Folder of your own plan: systems.yaml, <budget>.yaml.")] = None,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Write the report from the results there.")
    ] = False,
) -> None:
    """Run the papers' comparisons and write their tables. The same command goes on where it was stopped."""
    del what  # so far there is one
    require_extra(
        "reproduce papers",
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

    named = dict(_name_and_folder(word) for word in data or [])
    request = Request(
        budget=budget,
        data=named,
        only=tuple(only or ()),
        output=output,
        runs=runs,
        processes=processes,
        minutes=minutes,
        plan=plan or PLANS,
    )
    reproduce_papers(request, report_only=report_only, say=typer.echo)


def _name_and_folder(word: str) -> tuple[str, str]:
    name, _, folder = word.partition("=")
    return name, folder or name

"""The command's body: choose the cells, run them, analyse what is finished, write the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calibox_training.reproduce.plan import PLANS, BudgetName, Cell, Plan, PlanError, load_plan
from calibox_training.reproduce.plots import draw_plots
from calibox_training.reproduce.report import load_results, render
from calibox_training.reproduce.results import write_text
from calibox_training.reproduce.runner import PAPERS, Comparison, Runner
from calibox_training.reproduce.tables import load_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command was asked for."""

    budget: BudgetName
    output: Path
    runs: Path
    processes: int = 2
    data: dict[str, str] = field(default_factory=dict)  # names to folders; all data sets where empty
    only: tuple[str, ...] = ()  # systems; all where empty
    minutes: float | None = None
    plan: Path = PLANS


def reproduce_papers(request: Request, *, report_only: bool, say: Callable[[str], None]) -> None:
    """Trains what the budget allows, and writes results and report.

    Raises:
        PlanError: a system or data set that the plan does not have.
    """
    plan = load_plan(request.budget, request.plan)
    cells = chosen(plan, request)
    if not report_only:
        run_cells(plan, cells, request, PAPERS, say)
    say(f"wrote {write_report(plan, request)}")


def run_cells(
    plan: Plan, cells: Sequence[Cell], request: Request, comparison: Comparison, say: Callable[[str], None]
) -> None:
    """Runs what the budget allows and says how many cells are left."""
    minutes = plan.budget.minutes if request.minutes is None else request.minutes
    runner = Runner(
        runs=request.runs,
        output=request.output,
        accelerator=plan.budget.accelerator,
        processes=request.processes,
        seconds=60 * minutes,
        data=request.data,
        say=say,
        comparison=comparison,
    )
    left = runner.run(cells)
    say(f"{len(left)} cells have no finished run")


def write_report(plan: Plan, request: Request) -> Path:
    """Writes `papers.md` and its pictures from the results that are there."""
    results = load_results(plan.cells(), request.output)
    pictures = draw_plots(results, request.output / "papers")
    path = request.output / "papers.md"
    write_text(path, render(plan, request.budget, load_tables(request.plan), results, pictures))
    return path


def chosen(plan: Plan, request: Request) -> Sequence[Cell]:
    """Cells of the asked systems and data, and of the systems that those go on from.

    Raises:
        PlanError: a system or data set that the plan does not have.
    """
    cells = list(plan.cells())
    _known("system", request.only, {cell.system.name for cell in cells})
    _known("data set", request.data, {cell.data for cell in cells})
    wanted = set(request.only)
    for system in reversed(plan.systems):  # sources stand before those that go on from them
        if system.name in wanted and system.start_from is not None:
            wanted.add(system.start_from)
    return [
        cell
        for cell in cells
        if (not wanted or cell.system.name in wanted) and (not request.data or cell.data in request.data)
    ]


def _known(what: str, asked: Sequence[str] | dict[str, str], there: set[str]) -> None:
    strangers = sorted(set(asked) - there)
    if strangers:
        raise PlanError(f"the plan has no {what} {', '.join(strangers)}; it has {', '.join(sorted(there))}")

"""The command's body: choose the cells, run them, time them, write the report."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from calibox_training.reproduce.papers import Request, chosen, run_cells
from calibox_training.reproduce.plan import Plan, load_plan
from calibox_training.reproduce.report import results_of
from calibox_training.reproduce.results import write_text
from calibox_training.reproduce.runner import trained
from calibox_training.reproduce.tables import load_tables
from calibox_training.reproduce_iou_net.plots import draw_plots
from calibox_training.reproduce_iou_net.report import render
from calibox_training.reproduce_iou_net.results import (
    FOLDER,
    IOU_NET,
    read_result,
    read_speeds,
    result_path,
    speed_path,
)

PLANS = Path(__file__).parent / "plans"


def reproduce_iou_net(request: Request, *, report_only: bool, say: Callable[[str], None]) -> None:
    """Trains what the budget allows, times what is trained, and writes results and report.

    Raises:
        PlanError: a system or data set that the plan does not have.
    """
    plan = load_plan(request.budget, request.plan)
    cells = chosen(plan, request)
    if not report_only:
        run_cells(plan, cells, request, IOU_NET, say)
        measure_speeds(plan, request, say)
    say(f"wrote {write_report(plan, request)}")


def measure_speeds(plan: Plan, request: Request, say: Callable[[str], None]) -> None:
    """Times the first seed's trained systems of each data set together, where that was not done for these recipes."""
    known = read_speeds(request.output, plan.budget.bases)
    for data in plan.budget.bases:
        cells = {
            cell.system.name: cell
            for cell in plan.cells()
            if cell.data == data and cell.seed == plan.budget.seeds[0] and trained(cell, request.runs)
        }
        hashes = {name: cell.recipe_hash for name, cell in cells.items()}
        if not cells or (data in known and known[data].recipe_hashes == hashes):
            continue
        say(f"{data}: timing {', '.join(cells)}")
        folders = [str(cell.folder(request.runs)) for cell in cells.values()]
        module = "calibox_training.reproduce_iou_net.speed_run"
        subprocess.run([sys.executable, "-m", module, str(speed_path(request.output, data)), *folders], check=True)


def write_report(plan: Plan, request: Request) -> Path:
    """Writes `iou-net.md` and its pictures from the results that are there."""
    results = results_of(plan.cells(), lambda name: result_path(request.output, name), read_result)
    pictures = draw_plots(results, request.output / FOLDER)
    speeds = read_speeds(request.output, plan.budget.bases)
    path = request.output / "iou-net.md"
    write_text(path, render(plan, request.budget, load_tables(request.plan), results, speeds, pictures))
    return path

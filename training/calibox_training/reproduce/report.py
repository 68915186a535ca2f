"""`papers.md` from results: every row of its tables has its number of seeds, or says that it has no finished run."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from calibox_training.reproduce.endpoints import CONTROLS, Endpoint, family
from calibox_training.reproduce.plan import BudgetName, Cell, Plan
from calibox_training.reproduce.results import BASE, DRAW_UNIT, CellResult, read_result, result_path
from calibox_training.reproduce.statistics import hierarchical
from calibox_training.reproduce.tables import (
    POINTS,
    Gain,
    Results,
    Row,
    Table,
    gain,
    mean_of,
)

Found = TypeVar("Found", bound=CellResult)
NO_RUN = "no finished run"
NON_INFERIORITY = -0.5  # points of AP50 that a ranking may cost, fixed before the runs
SAME_WEIGHTS = ("AP", "AP50", "AP75", "AP90")
PROTOCOL = Path(__file__).parent / "protocol.md"


def load_results(cells: Iterable[Cell], output: Path) -> dict[tuple[str, str], dict[int, CellResult]]:
    """Results of the plan's cells, of the plan's recipes only."""
    return results_of(cells, lambda name: result_path(output, name), read_result)


def results_of(
    cells: Iterable[Cell], path_of: Callable[[str], Path], read: Callable[[Path], Found]
) -> dict[tuple[str, str], dict[int, Found]]:
    """Results of cells, of the plan's recipes only, by data set, system and seed.

    Args:
        cells: of the plan.
        path_of: a result's place by the cell's name.
        read: a result.
    """
    found: dict[tuple[str, str], dict[int, Found]] = {}
    for cell in cells:
        path = path_of(cell.name)
        if path.exists() and (result := read(path)).trained.recipe_hash == cell.recipe_hash:
            found.setdefault((cell.data, cell.system.name), {})[cell.seed] = result
    return found


def render(plan: Plan, budget: BudgetName, tables: Sequence[Table], results: Results, plots: Sequence[str]) -> str:
    """The whole page."""
    endpoints = family(plan, tables, results)
    parts = [
        "# The papers' comparisons, reproduced at a small scale",
        facts("papers", plan, budget, results),
        "## What the figures say",
        "\n".join(_statements(plan, results, endpoints)),
        "## Protocol",
        PROTOCOL.read_text().strip(),
        *(part for table in tables for part in paper_table(table, results)),
        "## Design A: the same weights, ranked otherwise",
        "Points against ranking by p (`classification`).",
        markdown(*_same_weights(plan, results)),
        "## Primary endpoints",
        markdown(*_endpoint_rows(endpoints)),
        "## Scores and boxes",
        markdown(*_score_rows(plan, results)),
        "## Speed",
        "Training with its start and last validation; network and post-processing (the reference in numpy) of one "
        "image. Other cells ran beside it.",
        markdown(*_speed_rows(plan, results)),
        *(["## Pictures", "\n\n".join(f"![{name}]({name})" for name in plots)] if plots else []),
    ]
    return "\n\n".join(parts) + "\n"


def facts(what: str, plan: Plan, budget: BudgetName, results: Results) -> str:
    """Command, machine, dates and commits; ``what`` is the command's argument."""
    cells = list(plan.cells())
    trained = [result.trained for by_seed in results.values() for result in by_seed.values()]
    lines = [
        f"`calibox reproduce {what} --budget {budget}`: {len(trained)} of {len(cells)} cells have a finished run; "
        f"{sum(t.cell_seconds for t in trained) / 3600:.1f} hours of training and evaluation, one cell after another."
    ]
    if trained:
        days = sorted(t.finished[:10] for t in trained)
        analysed = {result.analysed_by for by_seed in results.values() for result in by_seed.values()}
        lines.append(
            f"{listed(t.machine for t in trained)}, {listed(t.accelerator for t in trained)}; torch "
            f"{listed(t.torch for t in trained)}; {days[0]} to {days[-1]}; trained at commit "
            f"{listed(t.commit[:12] for t in trained)}, analysed at {listed(c[:12] for c in analysed)}."
        )
    lines.append(
        "Small networks, small inputs and short schedules: compare gains with the papers', not absolute figures."
    )
    return "\n".join(lines)


def listed(values: Iterable[str]) -> str:
    """Each once, sorted."""
    return ", ".join(sorted(set(values)))


def _statements(plan: Plan, results: Results, endpoints: Sequence[Endpoint]) -> Iterator[str]:
    for one in endpoints:
        yield (
            f"- {one.data}, {one.system} against {one.against}: d{one.metric} {estimate_text(one.gain)} points, "
            f"{seeds_text(one.gain.seeds)}: {one.verdict}."
        )
    for data, system in _with_quality(plan, results):
        for control in CONTROLS:
            measured = against_p(results, data, system, control, "AP")
            word = "" if measured.estimate.excludes_zero else "not "
            yield f"- {data}, {system}, control with {control} q: dAP {estimate_text(measured)} points; {word}resolved."
    without = [
        f"{data} {system.name}"
        for system in plan.systems
        for data in system.data
        if not results.get((data, system.name))
    ]
    if without:
        yield f"- Without a finished run: {', '.join(without)}."


def paper_table(table: Table, results: Results) -> Iterator[str]:
    """A table of a paper with our figures beside the published ones, once for each data set."""
    yield f"## {table.title}"
    yield (
        f"Published: {table.paper}. Each cell: mean over seeds, and the gain over the row `{table.rows[0].label}` with "
        "its interval, in points."
    )
    for data in table.data:
        header = ["row", "seeds", *(word for name in table.columns for word in (f"{name} here", f"{name} published"))]
        yield f"Here: {data}."
        yield markdown(header, [_paper_row(table, row, data, results) for row in table.rows])


def _paper_row(table: Table, row: Row, data: str, results: Results) -> list[str]:
    base = table.base(row)
    cells, count = [], 0
    for name in table.columns:
        mean, count = mean_of(results, data, row, name)
        measured = gain(results, data, row, base, name)
        ours = f"{mean:.1f}" if count else "-"
        if count and row is not base:
            ours += f", {estimate_text(measured)}"
        published = row.published.get(name)
        theirs = "-" if published is None else f"{published:.1f}"
        if published is not None and name in base.published and row is not base:
            theirs += f", {published - base.published[name]:+.1f}"
        cells += [ours, theirs]
    return [row.label, str(count) if count else row.note or NO_RUN, *cells]


def _with_quality(plan: Plan, results: Results) -> Iterator[tuple[str, str]]:
    for system in plan.systems:
        for data in system.data:
            found = results.get((data, system.name), {})
            if any(result.chosen is not None for result in found.values()):
                yield data, system.name


def against_p(results: Results, data: str, system: str, ranking: str, name: str) -> Gain:
    """A metric of a ranking minus that of `classification` with the same weights."""
    row, base = (Row(label=ranking, system=system, ranking=r) for r in (ranking, BASE))
    return gain(results, data, row, base, name)


def _same_weights(plan: Plan, results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["data", "system", "ranking", "seeds", *(f"d{name}" for name in SAME_WEIGHTS), "dAP50 above -0.5"]
    rows = []
    for data, system in _with_quality(plan, results):
        own = next(iter(results[data, system].values())).own
        for ranking in dict.fromkeys(("product", own, *CONTROLS)):
            gains = {name: against_p(results, data, system, ranking, name) for name in SAME_WEIGHTS}
            safe = "yes" if gains["AP50"].estimate.low > NON_INFERIORITY else "not shown"
            rows.append(
                [data, system, ranking, str(gains["AP"].seeds), *(estimate_text(g) for g in gains.values()), safe]
            )
        rows.append(_chosen_row(data, system, list(results[data, system].values())))
    return header, rows


def _chosen_row(data: str, system: str, cells: Sequence[CellResult]) -> list[str]:
    """Every seed with the alpha of its own calibration half."""
    chosen = [cell.chosen for cell in cells if cell.chosen is not None]
    gains = {}
    for name in SAME_WEIGHTS:
        draws = np.array([cell.delta_draws["chosen"][name] for cell in cells], np.float64) * DRAW_UNIT * POINTS
        gains[name] = hierarchical([one.fused.delta[name][0] * POINTS for one in chosen], draws)
    label = (
        f"chosen alpha ({', '.join(f'{one.alpha:g}' for one in chosen)}), test half of {chosen[0].test_images} images"
    )
    safe = "yes" if gains["AP50"].low > NON_INFERIORITY else "not shown"
    return [data, system, label, str(len(chosen)), *(_figures(e.mean, e.low, e.high) for e in gains.values()), safe]


def _endpoint_rows(endpoints: Sequence[Endpoint]) -> tuple[list[str], list[list[str]]]:
    header = ["design", "data", "system", "against", "endpoint", "seeds", "points", "interval over", "p, Holm"]
    header += ["p, sign flips", "verdict"]
    rows = [
        [
            one.design,
            one.data,
            one.system,
            one.against,
            f"d{one.metric}",
            str(one.gain.seeds),
            estimate_text(one.gain),
            one.gain.kind,
            _number(one.adjusted_p, 3),
            _number(one.sign_flip, 3),
            one.verdict,
        ]
        for one in endpoints
    ]
    return header, rows


def _score_rows(plan: Plan, results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["data", "system", "ranking", "Pearson(score, IoU)", "Spearman(score, IoU)", "LaECE0", "recall at 0.9"]
    rows = []
    for system in plan.systems:
        for data in system.data:
            cells = list(results.get((data, system.name), {}).values())
            for ranking in dict.fromkeys((BASE, "product", *(cell.own for cell in cells))):
                found = [cell.rankings[ranking] for cell in cells if ranking in cell.rankings]
                if found:
                    values = [[r.correlation[f"{kind}_score"] for r in found] for kind in ("pearson", "spearman")]
                    values += [[r.laece0 for r in found], [r.recall90 for r in found]]
                    rows.append([data, system.name, ranking, *(_mean(row) for row in values)])
    return header, rows


def _speed_rows(plan: Plan, results: Results) -> tuple[list[str], list[list[str]]]:
    header = ["data", "system", "seeds", "training images per processor second", "ms per image", "minutes of training"]
    rows = []
    for system in plan.systems:
        for data in system.data:
            cells = [result.trained for result in results.get((data, system.name), {}).values()]
            figures = [
                [t.images / t.processor_seconds for t in cells if t.processor_seconds],
                [t.milliseconds_per_image for t in cells],
                [t.training_seconds / 60 for t in cells],
            ]
            row = [f"{np.mean(values):.1f}" if values else "-" for values in figures]
            rows.append([data, system.name, str(len(cells)) if cells else NO_RUN, *row])
    return header, rows


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def estimate_text(measured: Gain) -> str:
    """A gain in points with its interval."""
    estimate = measured.estimate
    return _figures(estimate.mean, estimate.low, estimate.high)


def _figures(mean: float, low: float, high: float) -> str:
    """`+1.2 [+0.3, +2.1]`, the interval left out where there is none."""
    if math.isnan(mean):
        return "-"
    return f"{mean:+.2f}" if math.isnan(low) else f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else "-"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def seeds_text(count: int) -> str:
    """How many, in words."""
    return "one seed" if count == 1 else f"{count} seeds"

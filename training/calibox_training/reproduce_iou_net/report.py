"""`iou-net.md` from results: the paper's tables and figures in its order, and what the figures say in words."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from calibox_training.reproduce.plan import BudgetName, Plan
from calibox_training.reproduce.report import (
    NO_RUN,
    against_p,
    estimate_text,
    facts,
    markdown,
    paper_table,
    seeds_text,
)
from calibox_training.reproduce.results import BASE
from calibox_training.reproduce.tables import POINTS, Table
from calibox_training.reproduce_iou_net.figures import NONE
from calibox_training.reproduce_iou_net.plots import LABELS, STEPS, Results
from calibox_training.reproduce_iou_net.results import IouNetResult, SpeedResult

PROTOCOL = Path(__file__).parent / "protocol.md"
# What the paper prints, points but for the correlations.
PUBLISHED_PEARSON = (0.217, 0.617)
PUBLISHED_RECALL_90 = {BASE: 18.7, "guided": 28.9, NONE: 39.7}
PUBLISHED_SECONDS = {"faster": 0.255, "cascade": 0.384, "joint": 0.305}
SAID = {"soft": "Soft-NMS", "guided": "IoU-guided NMS", "refined": "refinement", "guided_refined": "both"}
COMPARED = ("AP", "AP50", "AP75", "AP90")
Rows = tuple[list[str], list[list[str]]]


def render(
    plan: Plan,
    budget: BudgetName,
    tables: Sequence[Table],
    results: Results,
    speeds: Mapping[str, SpeedResult],
    plots: Sequence[str],
) -> str:
    """The whole page."""
    parts = [
        "# IoU-Net's analyses, reproduced at a small scale",
        facts("iou-net", plan, budget, results),
        "## What the figures say",
        "\n".join(_statements(plan, results)),
        "## Protocol",
        PROTOCOL.read_text().strip(),
        *_figure(2, "confidence and IoU", _correlation_rows(plan, results), plots),
        *_figure(3, "what suppression keeps", _positive_rows(plan, results), plots),
        *_figure(4, "regression and optimisation, AP after each step", _step_rows(plan, results), plots),
        *_figure(7, "recall over IoU", _recall_rows(plan, results), plots),
        *(part for table in tables for part in paper_table(table, results)),
        "## Table 4: inference speed",
        _SPEED,
        *(part for one in speeds.values() for part in _speed_table(one)),
        *([] if speeds else [f"{NO_RUN.capitalize()}."]),
        "## The predictors",
        markdown(*_predictor_rows(plan, results)),
    ]
    return "\n\n".join(parts) + "\n"


_SPEED = (
    "Milliseconds of one image on this machine (processor time on CPUs), medians; each image goes through every system "
    "and pipeline before the next one comes. The predictor's features are counted once, as a bundle would share them "
    "with the detector. Published: seconds per image of the same order of systems on a TITAN X at 1200x800, IoU-Net "
    "with suppression and refinement. Mask R-CNN (0.267 s) was not run: no data set here has masks."
)


def _cells(plan: Plan, results: Results) -> Iterator[tuple[str, str, list[IouNetResult]]]:
    """Data set, system and its seeds, data set by data set."""
    pairs = [(data, system.name) for system in plan.systems for data in system.data]
    for data in dict.fromkeys(data for data, _ in pairs):
        for own, system in pairs:
            if own == data:
                yield data, system, list(results.get((data, system), {}).values())


def _statements(plan: Plan, results: Results) -> Iterator[str]:
    for data, system, cells in _cells(plan, results):
        if not cells:
            yield f"- {data}, {system}: {NO_RUN}."
            continue
        for pipeline, words in SAID.items():
            gains = {name: against_p(results, data, system, pipeline, name) for name in COMPARED}
            said = ", ".join(
                f"d{name} {estimate_text(gain)}{'' if gain.estimate.excludes_zero else ' (not resolved)'}"
                for name, gain in gains.items()
            )
            yield f"- {data}, {system}, {words} against standard NMS, {seeds_text(len(cells))}: {said}."


def _figure(number: int, title: str, rows: Rows, plots: Sequence[str]) -> Iterator[str]:
    yield f"## Figure {number}: {title}"
    yield markdown(*rows)
    yield from (f"![{name}]({name})" for name in plots if name.endswith(f"-figure{number}.png"))


def _correlation_rows(plan: Plan, results: Results) -> Rows:
    header = ["data", "system", "Pearson(p, IoU)", "Pearson(predicted IoU, IoU)", "candidates with IoU > 0.5"]
    rows = [["COCO", "the paper's FPN, standalone", *(f"{value:.3f}" for value in PUBLISHED_PEARSON), "-"]]
    for data, system, cells in _cells(plan, results):
        found = [cell.rankings[BASE].correlation for cell in cells]
        names = ("pearson_classification", "pearson_localization")
        values = [_mean([one[name] for one in found], 3) for name in names]
        rows.append([data, system, *values, _mean([one["candidates"] for one in found], 0)])
    return header, rows


def _positive_rows(plan: Plan, results: Results) -> Rows:
    """Positive boxes with an IoU above 0.9, and in all."""
    header = ["data", "system", "suppression", "positives of IoU >= 0.9", "share of no NMS", "positives of IoU >= 0.5"]
    rows = []
    for data, system, cells in _cells(plan, results):
        for name in cells[0].positives if cells else ():
            counts, bound = (np.sum([cell.positives[which] for cell in cells], axis=0) for which in (name, NONE))
            edges = np.array(cells[0].positive_edges[:-1])
            best, most = (int(one[edges > 0.9 - 1e-6].sum()) for one in (counts, bound))
            share = f"{best / most:.0%}" if most else "-"
            rows.append([data, system, LABELS[name], str(best), share, str(int(counts.sum()))])
    return header, rows


def _step_rows(plan: Plan, results: Results) -> Rows:
    steps = max((len(cell.optimisation) for _, _, cells in _cells(plan, results) for cell in cells), default=1)
    header = ["data", "system", "boxes moved by", *(f"{number}" for number in range(steps))]
    rows = []
    for data, system, cells in _cells(plan, results):
        for label, steps_of in STEPS.items():
            curves = [steps_of(cell) for cell in cells]
            if curves and len(curves[0]) > 1:
                means = [_mean([curve[s]["AP"] for curve in curves], 2, POINTS) for s in range(len(curves[0]))]
                rows.append([data, system, label, *means])
    return header, rows


def _recall_rows(plan: Plan, results: Results) -> Rows:
    header = ["data", "system", "suppression", "recall at 0.5", "at 0.7", "at 0.9", "published at 0.9 (FPN)"]
    rows = []
    for data, system, cells in _cells(plan, results):
        for name in cells[0].recall if cells else ():
            at = [cells[0].recall_thresholds.index(threshold) for threshold in (0.5, 0.7, 0.9)]
            values = [_mean([cell.recall[name][i] for cell in cells], 1, POINTS) for i in at]
            published = PUBLISHED_RECALL_90.get(name)
            rows.append([data, system, LABELS[name], *values, "-" if published is None else f"{published}"])
    return header, rows


def _speed_table(one: SpeedResult) -> Iterator[str]:
    yield (
        f"Here: {one.data}, {one.images} images; {one.machine}, {one.accelerator}; torch {one.torch}; {one.finished}; "
        f"commit {one.commit[:12]}."
    )
    header = ["system", "detector, standard NMS", "detector, predictor, IoU-guided NMS", "the same, refined"]
    rows = []
    for system, ways in one.milliseconds.items():
        shared = ways["features"]
        times = [ways["detector"], ways["guided"] - shared, ways["guided_refined"] - shared]
        published = PUBLISHED_SECONDS.get(system)
        rows.append([system, *(f"{value:.1f}" for value in times), "-" if published is None else f"{published} s"])
    yield markdown([*header, "published"], rows)


def _predictor_rows(plan: Plan, results: Results) -> Rows:
    header = [
        "data",
        "system",
        "IoU error on jittered boxes",
        "Pearson on them",
        "minutes of its training",
        "candidates",
    ]
    rows = []
    for data, system, cells in _cells(plan, results):
        values = [[cell.predictor.get(name) for cell in cells] for name in ("iou_error", "pearson_localization")]
        minutes = _mean([cell.predictor_seconds / 60 or None for cell in cells], 1)
        many = _mean([float(cell.candidates) for cell in cells], 0)
        rows.append([data, system, *(_mean(row, 3) for row in values), minutes, many if cells else NO_RUN])
    return header, rows


def _mean(values: Sequence[float | None], digits: int, scale: float = 1) -> str:
    """Of what is known."""
    known = [value * scale for value in values if value is not None]
    return f"{np.mean(known):.{digits}f}" if known else "-"

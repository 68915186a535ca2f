"""The paper's figures as PNG: one picture per figure and data set, a panel for each system that has results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibox_training.reproduce.results import BASE
from calibox_training.reproduce.tables import POINTS
from calibox_training.reproduce_iou_net.figures import NONE
from calibox_training.reproduce_iou_net.results import AtSteps, IouNetResult

Results = Mapping[tuple[str, str], Mapping[int, IouNetResult]]  # by data set and system, then by seed
Cells = Sequence[IouNetResult]  # the seeds of a system
LABELS = {BASE: "standard NMS", "soft": "Soft-NMS", "guided": "IoU-guided NMS", NONE: "no NMS"}
PANEL = (3.6, 3.2)  # inches


def draw_plots(results: Results, folder: Path) -> list[str]:
    """Draws what there are results for.

    Returns: file names, relative to the folder above.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for data in dict.fromkeys(data for data, _ in results):
        systems = {system: list(cells.values()) for (own, system), cells in results.items() if own == data}
        for number, (draw, rows) in FIGURES.items():
            path = folder / f"{data}-figure{number}.png"
            _picture(path, f"Figure {number}, {data}", systems, draw, rows)
            names.append(f"{folder.name}/{path.name}")
    return names


def _picture(path: Path, title: str, systems: Mapping[str, Cells], draw: Any, rows: int) -> None:
    from matplotlib import pyplot

    size = (PANEL[0] * len(systems), PANEL[1] * rows)
    figure, axes = pyplot.subplots(rows, len(systems), figsize=size, squeeze=False, layout="constrained")
    for column, (system, cells) in enumerate(systems.items()):
        axes[0][column].set_title(f"{system}, {len(cells)} seed(s)")
        draw(axes[:, column], cells)
    figure.suptitle(title)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _confidence(axes: Any, cells: Cells) -> None:
    """Figure 2: candidates by true IoU and score, p above and predicted IoU below."""
    one = cells[0].confidence
    for panel, name, label in ((axes[0], "classification", "p"), (axes[1], "localization", "predicted IoU")):
        counts = np.sum([getattr(cell.confidence, name) for cell in cells], axis=0)
        panel.pcolormesh(one.iou_edges, one.score_edges, np.log1p(counts).T, cmap="Blues")
        known = [cell.rankings[BASE].correlation[f"pearson_{name}"] for cell in cells]
        r = [value for value in known if value is not None]
        panel.set_xlabel("IoU with the object")
        panel.set_ylabel(f"{label}" + (f", Pearson {np.mean(r):.3f}" if r else ""))


def _positives(axes: Any, cells: Cells) -> None:
    """Figure 3: objects by the IoU of their positive box."""
    edges = np.array(cells[0].positive_edges)
    width = np.diff(edges) / (len(cells[0].positives) + 1)
    for number, name in enumerate(cells[0].positives):
        counts = np.sum([cell.positives[name] for cell in cells], axis=0)
        axes[0].bar(edges[:-1] + (number + 1) * width, counts, width=width, label=LABELS[name])
    _finish(axes[0], "IoU with the object", "positive boxes")


def _steps(axes: Any, cells: Cells) -> None:
    """Figure 4: AP after each step."""
    for label, steps_of in STEPS.items():
        curves = [[(step["AP"] or 0) * POINTS for step in steps_of(cell)] for cell in cells]
        if len(curves[0]) > 1:
            axes[0].plot(np.mean(curves, axis=0), marker="o", label=label)
    _finish(axes[0], "step", "AP, points")


def _recalls(axes: Any, cells: Cells) -> None:
    """Figure 7: recall over the IoU that a match needs."""
    for name in cells[0].recall:
        mean = np.mean([cell.recall[name] for cell in cells], axis=0)
        axes[0].plot(cells[0].recall_thresholds, mean * POINTS, marker=".", label=LABELS[name])
    _finish(axes[0], "IoU for a match", "recall, points")


def _finish(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


STEPS: Mapping[str, Callable[[IouNetResult], AtSteps]] = {
    "optimisation": lambda cell: cell.optimisation,
    "regression": lambda cell: cell.regression,
}
# Rows of panels by the figure's number in the paper.
FIGURES = {2: (_confidence, 2), 3: (_positives, 1), 4: (_steps, 1), 7: (_recalls, 1)}

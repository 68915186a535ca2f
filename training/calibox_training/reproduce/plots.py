"""Pictures of the report, as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibox_core.coco_matching import THRESHOLDS
from calibox_training.reproduce.rankings import ALPHAS, geometric_name
from calibox_training.reproduce.results import BASE, CellResult
from calibox_training.reproduce.tables import POINTS, Results

SUBJECT = "iou_aware"  # the system whose scores the pictures show
CURVES = ("AP", "AP50", "AP75", "AP90")


def draw_plots(results: Results, folder: Path) -> list[str]:
    """Draws what there are results for.

    Returns: file names, relative to the folder above.
    """
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for (data, system), by_seed in results.items():
        if system == SUBJECT and by_seed:
            cells = list(by_seed.values())
            for kind, draw in (("alpha", _alpha), ("thresholds", _thresholds), ("reliability", _reliability)):
                path = folder / f"{data}-{kind}.png"
                _picture(path, f"{data}, {system}, {len(cells)} seed(s)", draw, cells)
                names.append(f"{folder.name}/{path.name}")
    return names


def _picture(path: Path, title: str, draw: Any, cells: Sequence[CellResult]) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    draw(axes, cells)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def _alpha(axes: Any, cells: Sequence[CellResult]) -> None:
    """Metrics against ranking by p, by alpha."""
    for name in CURVES:
        means = [
            np.mean([cell.rankings[geometric_name(alpha)].delta[name][0] for cell in cells]) * POINTS
            for alpha in ALPHAS
        ]
        axes.plot((1.0, *ALPHAS), (0.0, *means), marker="o", label=f"d{name}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.invert_xaxis()
    axes.set_xlabel("alpha of p^alpha * q^(1 - alpha)")
    axes.set_ylabel("points against ranking by p")


def _thresholds(axes: Any, cells: Sequence[CellResult]) -> None:
    """Difference of the own ranking at each IoU threshold, each seed with its interval over images."""
    width = 0.04 / len(cells)
    for number, cell in enumerate(cells):
        rows = np.array(cell.rankings[cell.own].delta_by_threshold) * POINTS
        where = THRESHOLDS + (number - (len(cells) - 1) / 2) * width
        errors = np.abs(rows[:, 1:] - rows[:, :1]).T
        axes.bar(where, rows[:, 0], width=width, yerr=errors, capsize=2, label=f"seed {cell.trained.seed}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("IoU threshold")
    axes.set_ylabel("dAP, points against ranking by p")


def _reliability(axes: Any, cells: Sequence[CellResult]) -> None:
    """Mean IoU by mean score, over the detections of all seeds."""
    labels = {BASE: "p", "product": "p * q", "geometric 0.5": "sqrt(p * q)"}
    for name, label in labels.items():
        rows = sorted(row for cell in cells for row in cell.reliability.get(name, []))
        bins: dict[int, list[tuple[float, float, int]]] = {}
        for row in rows:
            bins.setdefault(min(int(row[0] * 10), 9), []).append(row)
        points = [np.average([r[:2] for r in own], axis=0, weights=[r[2] for r in own]) for own in bins.values()]
        axes.plot(*np.array(points).reshape(-1, 2).T, marker="o", label=label)
    axes.plot((0, 1), (0, 1), color="black", linewidth=0.8, label="score = IoU")
    axes.set_xlabel("mean score of a bin")
    axes.set_ylabel("mean IoU with the best object")

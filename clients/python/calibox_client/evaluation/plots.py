"""Plots of the report as SVG text, in the colours of the page that they stand in.

matplotlib draws them; its text and lines are then coloured by the page (`currentColor`), so that they are read on light
and dark alike. Letters are real text.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

_INK = "#010203"  # stands for the page's own colour; nothing else is drawn in it
# Distinct for all kinds of colour vision (Okabe and Ito), and on white and black alike.
COLOURS = {"classification_score": "#e69f00", "localization_score": "#56b4e9", "score": "#009e73"}
_OTHER = "#cc79a7"
SWEEP_RANGE = 0.1  # of AP below the best: what is further off would press the others into one line
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}


def drawn(title: str, draw: Callable[[Any], None], *, width: float = 4.2, height: float = 3.2) -> str:
    """One plot as an SVG element.

    Args:
        title: told to screen readers, and above it.
        draw: puts content on matplotlib axes.
        width, height: in inches of 72 pixels.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    text = io.StringIO()
    # The salt names parts of the picture; plots of one page must not share names.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_title(title)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace(_INK, "currentColor").replace("<svg ", '<svg role="img" ', 1)


def by_threshold(document: Mapping[str, Any]) -> str:
    """AP at each IoU threshold."""
    thresholds = np.linspace(0.5, 0.95, 10)
    values = [document[f"AP{round(100 * iou)}"] for iou in thresholds]

    def draw(axes: Any) -> None:
        axes.bar(thresholds, [value or 0 for value in values], width=0.035, color=COLOURS["score"])
        axes.set(xlabel="IoU threshold", ylabel="AP", ylim=(0, 1), xticks=thresholds[::2])

    return drawn("AP by IoU threshold", draw)


def reliability_plot(name: str, report: Mapping[str, Any], *, title: str = "") -> str:
    """Mean IoU and share of right detections by mean score, and how many detections there are."""

    def draw(axes: Any) -> None:
        counts = np.array([row["count"] for row in _rows(report["reliability_iou"])], np.float64)
        scores = [row["score"] for row in _rows(report["reliability_iou"])]
        shares = counts / max(counts.sum(), 1)
        axes.bar(scores, shares, width=0.06, color=_INK, alpha=0.15, label="share of detections")
        axes.plot((0, 1), (0, 1), color=_INK, linewidth=0.8, linestyle=":")
        for key, colour, label in (
            ("reliability_iou", COLOURS[name], "mean IoU"),
            ("reliability_precision", _OTHER, "right at IoU 0.5"),
        ):
            rows = _rows(report[key])
            axes.plot([r["score"] for r in rows], [r["target"] for r in rows], marker="o", color=colour, label=label)
        axes.set(xlabel=f"mean {_said(name)} of a bin", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left", fontsize=7)

    return drawn(f"Reliability: {title or _said(name)}", draw)


def score_iou_map(name: str, counts: Sequence[Sequence[int]]) -> str:
    """How many detections have a score and an IoU, by the logarithm of their number."""

    def draw(axes: Any) -> None:
        cells = np.array(counts, np.float64).T
        side = cells.shape[0]
        largest = np.log1p(cells.max(initial=1))
        for row, column in np.argwhere(cells > 0):
            shade = 0.15 + 0.85 * float(np.log1p(cells[row, column]) / largest)
            place = (column / side, row / side)
            axes.add_patch(_cell(place, 1 / side, COLOURS[name], shade))
        axes.plot((0, 1), (0, 1), color=_INK, linewidth=0.8, linestyle=":")
        axes.set(xlabel=_said(name), ylabel="IoU with the best object", xlim=(0, 1), ylim=(0, 1))

    return drawn(f"IoU against {_said(name)}", draw)


def _cell(place: tuple[float, float], side: float, colour: str, shade: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(place, side, side, facecolor=colour, alpha=shade, linewidth=0)


def sweep_plot(swept: Mapping[str, Any]) -> str:
    """AP of every ranking on both halves, best of the calibration half on top, and what was confirmed live."""
    least = max(point["calibration_AP"] for point in swept["points"]) - SWEEP_RANGE
    shown = {one["name"] for one in swept["confirmed"]}
    points = [point for point in swept["points"] if point["calibration_AP"] >= least or point["name"] in shown]
    points.sort(key=lambda point: point["calibration_AP"])
    names = [point["name"] for point in points]

    def draw(axes: Any) -> None:
        rows = range(len(points))
        axes.plot([p["calibration_AP"] for p in points], rows, "o", color=_OTHER, label="calibration half, offline")
        axes.plot([p["test_AP"] for p in points], rows, "o", color=COLOURS["score"], label="test half, offline")
        live = [(one["test_AP"], names.index(one["name"])) for one in swept["confirmed"]]
        axes.plot(*zip(*live, strict=True), "x", color=_INK, markersize=9, label="test half, live")
        axes.set(xlabel="AP", yticks=list(rows), yticklabels=names)
        axes.grid(axis="y", alpha=0.2)
        axes.legend(fontsize=7)

    return drawn(f"Rankings within {SWEEP_RANGE:g} of the best", draw, width=6.5, height=1 + 0.2 * len(points))


def _rows(bins: Sequence[Any]) -> list[dict[str, Any]]:
    """Bins as named values, as they are and as JSON gives them back."""
    return [dict(zip(("score", "target", "count"), row, strict=True)) for row in bins]


def _said(name: str) -> str:
    return name.replace("_", " ")

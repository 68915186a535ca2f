"""Last stage: what is written and what is printed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.metrics import Measured
from calibox_client.evaluation.rates import rates_text
from calibox_client.evaluation.sweep_formats import own_rows

_MAIN = ("AP", "AP50", "AP75", "AP90")
_FURTHER = ("AP60", "AP70", "AP80")
_SIZES = ("APs", "APm", "APl")
_CLASS_COLUMNS = ("objects", "detections", "AP", "AP50", "AP75", "oLRP", "threshold")
_ERROR_COLUMNS = ("D_ECE", "LaECE", "LaECE0", "LaACE0")


def write_results(results: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes COCO results whole or not at all.

    Raises:
        EvaluationError: the place cannot be written.
    """
    write_text(json.dumps(results) + "\n", output)


def write_text(text: str, output: Path) -> None:
    """Writes beside the place and renames.

    Raises:
        EvaluationError: the place cannot be written.
    """
    scratch = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text)
        scratch.replace(output)
    except OSError as error:
        raise EvaluationError(f"the results cannot be written to {output}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def summary_document(
    measured: Measured, facts: Mapping[str, Any], swept: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What was measured, as one document: metrics in 0..1 under their names, the facts, classes, calibration, sweep."""
    details = measured.details
    return {
        **measured.coco,
        **measured.by_threshold,
        **measured.own,
        **details.lrp,
        **facts,
        "latency_ms": measured.latency_ms,
        "per_class": list(details.classes),
        "correlations": details.correlations,
        "calibration": {name: {**one.errors, "kept": one.kept} for name, one in details.scores.items()},
        **({} if swept is None else {"sweep": dict(swept)}),
    }


def full_document(measured: Measured, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary with what plots are made of."""
    return {**summary, **measured.details.as_json(), "table": measured.table}


def summary_text(measured: Measured, summary: Mapping[str, Any]) -> str:
    """The same for people."""
    main, further, sizes = (
        "   ".join(f"{name} {_number(measured.coco[name], '.3f')}" for name in names)
        for names in (_MAIN, _FURTHER, _SIZES)
    )
    latency = "   ".join(f"{name} {_number(value, '.1f')}" for name, value in measured.latency_ms.items())
    return "\n".join(
        [
            f"{summary['model']}/{summary['version']}, {summary['images']} images ({summary['half']}), "
            f"{summary['detections']} detections, ranked by {summary['rank_by']}",
            "",
            measured.table.rstrip("\n"),
            "",
            f"{main}   ({further})",
            f"by size: {sizes}",
            *(f"{name} {_number(value, '.3f')}" for name, value in measured.own.items()),
            "   ".join(f"{name} {_number(value, '.3f')}" for name, value in measured.details.lrp.items()),
            "",
            *_table("class", _CLASS_COLUMNS, {row["name"]: row for row in summary["per_class"]}),
            "",
            *_table("calibration error", (*_ERROR_COLUMNS, "kept"), summary["calibration"]),
            *_calibration_lines(summary),
            *(_sweep_lines(summary["sweep"]) if "sweep" in summary else ()),
            "",
            f"throughput: {_number(summary['images_per_second'], '.1f')} images/s, "
            f"{summary['concurrency']} at a time, {summary['retries']} repeats"
            + (f", {summary['images_resumed']} answers from an earlier run" if summary["images_resumed"] else ""),
            f"latency (ms): {latency}",
            f"results: {summary['output']}",
        ]
    )


def _calibration_lines(summary: Mapping[str, Any]) -> list[str]:
    """The operating point that was asked for, and what the score map does."""
    lines = [summary["calibrated"]["verdict"]] if "calibrated" in summary else []
    if (point := summary.get("operating_point")) is not None:
        lines.append(f"at {point['name']}, IoU {point['wanted']['match_iou']:g}: {rates_text(point)}")
    return ["", *lines] if lines else []


def _sweep_lines(swept: Mapping[str, Any]) -> list[str]:
    """The rankings that were asked for live, and what was chosen among them."""
    rows = {
        one["name"]: {
            **one,
            "delta": "{:+.3f} [{:+.3f}, {:+.3f}]".format(*one["delta_AP"]),
            "differ": f"{one['images_that_differ']}/{swept['images']}",
        }
        for one in swept["confirmed"]
    }
    columns = ("calibration_AP", "test_AP", "delta", "offline_test_AP", "differ")
    lines = ["", *_table("ranking, live", columns, rows), f"chosen on the calibration half: {swept['chosen']}"]
    own_columns, own = own_rows(swept)
    return [*lines, "", *_table("ranking, test half", own_columns, own)] if own else lines


def _table(title: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Aligned columns, the first of them the rows' names."""
    cells = [
        [title, *columns],
        *([name, *(_cell(row.get(column)) for column in columns)] for name, row in rows.items()),
    ]
    widths = [max(len(line[n]) for line in cells) for n in range(len(columns) + 1)]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    ]


def _cell(value: Any) -> str:
    return _number(value, ".3f") if value is None or isinstance(value, float) else str(value)


def print_summary(measured: Measured, summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints the summary on standard output: one JSON object, or tables for people."""
    typer.echo(json.dumps(summary) if as_json else summary_text(measured, summary))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

"""Last stage: what is written and what is printed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.metrics import Measured

_MAIN = ("AP", "AP50", "AP75", "AP90")
_FURTHER = ("AP60", "AP70", "AP80")
_SIZES = ("APs", "APm", "APl")


def write_results(results: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes COCO results whole or not at all.

    Raises:
        EvaluationError: the place cannot be written.
    """
    scratch = output.with_name(f".{output.name}.part")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(results) + "\n")
        scratch.replace(output)
    except OSError as error:
        raise EvaluationError(f"the results cannot be written to {output}: {error.strerror or error}") from error
    finally:
        scratch.unlink(missing_ok=True)


def summary_document(measured: Measured, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that was measured, as one flat document: metrics in 0..1 under their names, and the facts."""
    return {**measured.coco, **measured.own, **facts, "latency_ms": measured.latency_ms}


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
            f"throughput: {_number(summary['images_per_second'], '.1f')} images/s, "
            f"{summary['concurrency']} at a time, {summary['retries']} repeats"
            + (f", {summary['images_resumed']} answers from an earlier run" if summary["images_resumed"] else ""),
            f"latency (ms): {latency}",
            f"results: {summary['output']}",
        ]
    )


def print_summary(measured: Measured, summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints the summary on standard output: one JSON object, or tables for people."""
    typer.echo(json.dumps(summary) if as_json else summary_text(measured, summary))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

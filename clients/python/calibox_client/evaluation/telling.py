"""What the command does with an evaluation: run it, print it, write its report, judge it."""

import json
from functools import partial
from pathlib import Path

import typer

from calibox_client.evaluation.evaluate import Evaluation, run_evaluation
from calibox_client.evaluation.limits import FAILED, missed, read_limits
from calibox_client.evaluation.raw_scores import RawScoresClient
from calibox_client.evaluation.report import full_document, print_summary, write_text
from calibox_client.options import key_headers


def evaluate_and_tell(evaluation: Evaluation, *, report: Path | None, fail_under: list[str], as_json: bool) -> None:
    """All that `calibox eval` does with a server.

    Args:
        evaluation: what to measure.
        report: an HTML file to write, and its numbers beside it as JSON.
        fail_under: limits, as `read_limits` takes them.
        as_json: print one JSON object.

    Raises:
        EvaluationError: as `run_evaluation` and `read_limits`.
        typer.Exit: with status 3 where a limit is missed, 130 after an interruption.
    """
    limits = read_limits(fail_under)
    try:
        measured, summary = run_evaluation(evaluation, partial(RawScoresClient, headers=key_headers()))
    except KeyboardInterrupt:
        typer.secho("interrupted; the same command goes on where this one stopped", err=True)
        raise typer.Exit(130) from None  # 128 + SIGINT, as shells say it
    print_summary(measured, summary, as_json=as_json)
    if report is not None:
        from calibox_client.evaluation.html_report import html_page

        document = full_document(measured, summary)
        write_text(html_page(document), report)
        write_text(json.dumps(document, indent=1) + "\n", report.with_suffix(".json"))
    misses = missed(limits, summary)
    for sentence in misses:
        typer.secho(sentence, err=True, fg=typer.colors.RED)
    if misses:
        raise typer.Exit(FAILED)

"""What the command does with a calibration: run it, print it, write it down."""

import json
from functools import partial
from pathlib import Path

import typer

from calibox_client.calibration.calibrate import run_calibration
from calibox_client.calibration.order import Calibration
from calibox_client.calibration.report import outcome_document, outcome_page, outcome_text
from calibox_client.evaluation.raw_scores import RawScoresClient
from calibox_client.evaluation.report import write_text
from calibox_client.options import key_headers


def calibrate_and_tell(asked: Calibration, *, report: Path | None, as_json: bool) -> None:
    """All that `calibox calibrate` does.

    Args:
        asked: what to do.
        report: an HTML file to write.
        as_json: print one JSON object.

    Raises:
        CaliboxError: as `run_calibration`.
        typer.Exit: with status 130 after an interruption.
    """
    try:
        outcome = run_calibration(asked, partial(RawScoresClient, headers=key_headers()))
    except KeyboardInterrupt:
        typer.secho("interrupted; the same command goes on where this one stopped", err=True)
        raise typer.Exit(130) from None  # 128 + SIGINT, as shells say it
    document = outcome_document(outcome)
    write_text(json.dumps(document, indent=1) + "\n", asked.output)
    if report is not None:
        write_text(outcome_page(document), report)
    typer.echo(json.dumps(document) if as_json else outcome_text(document))

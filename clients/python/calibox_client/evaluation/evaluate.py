"""All stages of an evaluation in their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import typer

from calibox_client.evaluation.asking import TIMEOUT, Asker, Connect, Tally, ask_for_detections
from calibox_client.evaluation.calibrated import calibration_facts
from calibox_client.evaluation.choices import Half, RankBy
from calibox_client.evaluation.details import Truth, truth_of
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer, Journal
from calibox_client.evaluation.metrics import Measured, coco_results, measure
from calibox_client.evaluation.offline import collect_offline, served_by
from calibox_client.evaluation.raw_scores import RawScoresClient
from calibox_client.evaluation.report import summary_document, write_results
from calibox_client.evaluation.served import Served, class_warning, find_served
from calibox_client.evaluation.source import Source
from calibox_client.evaluation.sweeping import Sweeping, check_can_sweep, run_sweep
from calibox_client.evaluation.work import WorkItem, hash_of_images, read_work
from calibox_client.interruptible import run_interruptible
from calibox_client.offline import Offline

_COCO_DETECTIONS = 100  # COCO's AP is over the best 100 per image


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `calibox eval` was asked to do."""

    server: str
    source: Source
    output: Path
    concurrency: int
    half: Half
    rank_by: RankBy
    restart: bool
    model: str | None
    version: str | None
    parameters: Mapping[str, Any]  # of `detect`, without model and version
    sweep: bool = False
    offline: Offline | None = None  # instead of the server

    @property
    def journal_path(self) -> Path:
        """Where answers are kept until the results are written."""
        return self.output.with_name(f"{self.output.name}.journal.jsonl")


def run_evaluation(evaluation: Evaluation, connect: Connect = RawScoresClient) -> tuple[Measured, dict[str, Any]]:
    """Asks about every image that is not in the journal yet, measures, and writes the results.

    Args:
        evaluation: what to do.
        connect: makes a client of an address and of `AsyncClient`'s keyword arguments.

    Returns: what was measured, and the summary document.

    Raises:
        EvaluationError: something is missing, or the server failed; answers so far are kept.
    """
    annotations = evaluation.source.annotations
    if evaluation.sweep and evaluation.half is not Half.ALL:
        raise EvaluationError("--sweep chooses on one half and reports on the other; leave --half out")
    work = read_work(annotations, evaluation.source.images, evaluation.half)
    asker = Asker(evaluation.server, connect, evaluation.concurrency)
    offline = evaluation.offline
    served = served_by(offline.bundle) if offline else run_interruptible(_find_served(evaluation, connect))
    if (warning := class_warning(served, annotations)) is not None:
        typer.secho(warning, err=True, fg=typer.colors.YELLOW)
    parameters = _parameters(evaluation, served)
    sweeping = _sweeping(evaluation, served, parameters, asker) if evaluation.sweep else None
    if evaluation.restart:
        _drop_journals(evaluation)
    fingerprint = _fingerprint(served, parameters, annotations)
    with Journal(evaluation.journal_path, fingerprint, Answer.of_line) as journal:
        tally = (
            collect_offline(offline, work, journal, parameters)
            if offline
            else asker.collect("images", work, journal, partial(ask_for_detections, parameters=parameters))
        )
        answers = [journal.answers[item.image_id] for item in work]
        truth = truth_of(annotations, [item.image_id for item in work])
        swept = None if sweeping is None else run_sweep(sweeping, work, truth, answers, annotations)
        measured, results = _measured(evaluation, truth, answers)
        write_results(results, evaluation.output)
        journal.remove()
    facts = _facts(evaluation, parameters, tally, work, len(results))
    facts |= calibration_facts(served, parameters, results, truth)
    return measured, summary_document(measured, facts, swept)


def _measured(evaluation: Evaluation, truth: Truth, answers: Sequence[Answer]) -> tuple[Measured, list[dict[str, Any]]]:
    results = coco_results(answers)
    return measure(evaluation.source.annotations, truth, results, answers, evaluation.rank_by), results


def _drop_journals(evaluation: Evaluation) -> None:
    """Those of its sweep too."""
    for path in evaluation.output.parent.glob(f"{evaluation.output.name}*.journal.jsonl"):
        path.unlink(missing_ok=True)


def _sweeping(evaluation: Evaluation, served: Served, parameters: Mapping[str, Any], asker: Asker) -> Sweeping:
    manifest = served.manifest()
    check_can_sweep(parameters, manifest)
    fingerprint = _fingerprint(served, parameters, evaluation.source.annotations)
    return Sweeping(asker, manifest, parameters, fingerprint, evaluation.output)


def _parameters(evaluation: Evaluation, served: Served) -> dict[str, Any]:
    """Of every request; model and version are named, so that one that appears meanwhile does not mix in."""
    defaults = {"max_detections": min(_COCO_DETECTIONS, served.max_detections), "timeout_ms": TIMEOUT * 1000}
    return {**defaults, **evaluation.parameters, "model": served.name, "version": served.version}


def _fingerprint(served: Served, parameters: Mapping[str, Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
    asked = {name: value for name, value in parameters.items() if name != "timeout_ms"}  # which changes no answer
    return {"parameters": asked, "files": dict(served.files), "images_sha256": hash_of_images(annotations)}


def _facts(
    evaluation: Evaluation, parameters: Mapping[str, Any], tally: Tally, work: Sequence[WorkItem], detections: int
) -> dict[str, Any]:
    return {
        "model": parameters["model"],
        "version": parameters["version"],
        "images": len(work),
        "images_resumed": len(work) - tally.asked,
        "detections": detections,
        "images_per_second": tally.per_second,
        "retries": tally.retries,
        "concurrency": _at_once(evaluation),
        "half": str(evaluation.half),
        "rank_by": str(evaluation.rank_by),
        "server": evaluation.server,
        "parameters": dict(parameters),
        "output": str(evaluation.output),
    }


def _at_once(evaluation: Evaluation) -> int | str:
    if evaluation.offline is None:
        return evaluation.concurrency
    return evaluation.offline.actors or "as many actors as there was room for"


async def _find_served(evaluation: Evaluation, connect: Connect) -> Served:
    try:
        client = connect(evaluation.server)
    except ValueError as error:  # no address
        raise EvaluationError(str(error)) from error
    async with client:
        return await find_served(client, evaluation.model, evaluation.version)

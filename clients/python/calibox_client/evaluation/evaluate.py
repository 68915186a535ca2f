"""All stages of an evaluation in their order."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from calibox_client.async_client import AsyncClient
from calibox_client.evaluation.choices import Half, RankBy
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.journal import Answer, Journal
from calibox_client.evaluation.metrics import Measured, coco_results, measure
from calibox_client.evaluation.report import summary_document, write_results
from calibox_client.evaluation.run import ask_all
from calibox_client.evaluation.served import Served, class_warning, find_served
from calibox_client.evaluation.source import Source
from calibox_client.evaluation.work import WorkItem, hash_of_images, read_work
from calibox_client.retries import RetryPolicy

Connect = Callable[..., AsyncClient]

# Far more patient than a single call: a server that restarts in the middle costs half a minute, not the run.
_RETRIES = RetryPolicy(attempts=15, first_pause=0.25, longest_pause=5.0)
_COCO_DETECTIONS = 100  # COCO's AP is over the best 100 per image
_TIMEOUT = 120.0  # seconds for one image, its repeats included; the server may take as long


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

    @property
    def journal_path(self) -> Path:
        """Where answers are kept until the results are written."""
        return self.output.with_name(f"{self.output.name}.journal.jsonl")


@dataclass(slots=True)
class _Tally:
    """What was counted while asking."""

    retries: int = 0
    asked: int = 0
    seconds: float = 0.0


def run_evaluation(evaluation: Evaluation, connect: Connect = AsyncClient) -> tuple[Measured, dict[str, Any]]:
    """Asks about every image that is not in the journal yet, measures, and writes the results.

    Args:
        evaluation: what to do.
        connect: makes a client of an address and of `AsyncClient`'s keyword arguments.

    Returns: what was measured, and the summary document.

    Raises:
        EvaluationError: something is missing, or the server failed; answers so far are kept.
    """
    annotations = evaluation.source.annotations
    work = read_work(annotations, evaluation.source.images, evaluation.half)
    served = asyncio.run(_find_served(evaluation, connect))
    if (warning := class_warning(served, annotations)) is not None:
        typer.secho(warning, err=True, fg=typer.colors.YELLOW)
    parameters = _parameters(evaluation, served)
    if evaluation.restart:
        evaluation.journal_path.unlink(missing_ok=True)
    with Journal(evaluation.journal_path, _fingerprint(served, parameters, annotations)) as journal:
        try:
            tally = asyncio.run(_ask_for_missing(evaluation, connect, work, parameters, journal))
        except EvaluationError as error:
            kept = sum(item.image_id in journal.answers for item in work)
            raise EvaluationError(
                f"{error}. {kept} of {len(work)} answers are kept; the same command goes on from there"
            ) from error
        answers = [journal.answers[item.image_id] for item in work]
        results = coco_results(answers)
        measured = measure(annotations, results, answers, evaluation.rank_by)
        write_results(results, evaluation.output)
        journal.remove()
    return measured, summary_document(measured, _facts(evaluation, parameters, tally, len(work), len(results)))


def _parameters(evaluation: Evaluation, served: Served) -> dict[str, Any]:
    """Of every request; model and version are named, so that one that appears meanwhile does not mix in."""
    defaults = {"max_detections": min(_COCO_DETECTIONS, served.max_detections), "timeout_ms": _TIMEOUT * 1000}
    return {**defaults, **evaluation.parameters, "model": served.name, "version": served.version}


def _fingerprint(served: Served, parameters: Mapping[str, Any], annotations: Mapping[str, Any]) -> dict[str, Any]:
    asked = {name: value for name, value in parameters.items() if name != "timeout_ms"}  # which changes no answer
    return {"parameters": asked, "files": dict(served.files), "images_sha256": hash_of_images(annotations)}


def _facts(
    evaluation: Evaluation, parameters: Mapping[str, Any], tally: _Tally, images: int, detections: int
) -> dict[str, Any]:
    return {
        "model": parameters["model"],
        "version": parameters["version"],
        "images": images,
        "images_resumed": images - tally.asked,
        "detections": detections,
        "images_per_second": tally.asked / tally.seconds if tally.asked else None,
        "retries": tally.retries,
        "concurrency": evaluation.concurrency,
        "half": str(evaluation.half),
        "rank_by": str(evaluation.rank_by),
        "server": evaluation.server,
        "parameters": dict(parameters),
        "output": str(evaluation.output),
    }


async def _find_served(evaluation: Evaluation, connect: Connect) -> Served:
    try:
        client = connect(evaluation.server)
    except ValueError as error:  # no address
        raise EvaluationError(str(error)) from error
    async with client:
        return await find_served(client, evaluation.model, evaluation.version)


async def _ask_for_missing(
    evaluation: Evaluation, connect: Connect, work: list[WorkItem], parameters: Mapping[str, Any], journal: Journal
) -> _Tally:
    tally = _Tally()
    missing = [item for item in work if item.image_id not in journal.answers]

    def count_retry(_error: BaseException, _pause: float) -> None:
        tally.retries += 1

    with _progress() as progress:
        task = progress.add_task("images", total=len(work), completed=len(work) - len(missing))

        def keep(answer: Answer) -> None:
            journal.add(answer)
            tally.asked += 1
            progress.advance(task)

        start = time.perf_counter()
        async with connect(evaluation.server, timeout=_TIMEOUT, retries=_RETRIES, on_retry=count_retry) as client:
            await ask_all(client, missing, parameters, concurrency=evaluation.concurrency, on_answer=keep)
        tally.seconds = time.perf_counter() - start
    return tally


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

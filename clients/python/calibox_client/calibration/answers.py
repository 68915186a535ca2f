"""First stage: the server's answers under the ranking that is chosen."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import typer

from calibox_client.calibration.choosing import best_points, choose_fusion
from calibox_client.calibration.errors import CalibrationError
from calibox_client.calibration.order import Calibration
from calibox_client.calibration.serving import server_for
from calibox_client.evaluation.asking import TIMEOUT, Asker, Connect, ask_for_detections
from calibox_client.evaluation.details import Truth
from calibox_client.evaluation.journal import Answer, Journal
from calibox_client.evaluation.served import class_warning, find_served
from calibox_client.evaluation.sweep import Halves, Point, fusion_name
from calibox_client.evaluation.sweeping import Live, Sweeping, live_of, rank_all
from calibox_client.evaluation.work import WorkItem, hash_of_images
from calibox_client.interruptible import run_interruptible
from calibox_core.bundle import Bundle
from calibox_core.manifest import Manifest
from calibox_core.operating_point import FusionChoice

COCO_DETECTIONS = 100  # COCO's AP is over the best 100 per image


@dataclass(frozen=True, slots=True)
class Answered:
    """Answers about every image."""

    live: Live  # under the ranking that was chosen
    own: Live  # under the model's own
    choice: FusionChoice | None  # None where the ranking was to stay


def ask_server(
    asked: Calibration, bundle: Bundle, work: Sequence[WorkItem], truth: Truth, halves: Halves, connect: Connect
) -> Answered:
    """Every image under the model's own ranking, and what else is needed to choose one.

    Raises:
        CalibrationError, EvaluationError: the server is of another bundle, or failed; answers so far are kept.
    """
    with ExitStack() as stack:
        address = stack.enter_context(server_for(bundle, asked.server))
        _check_served(address, bundle, asked, connect)
        sweeping = _sweeping(asked, bundle.manifest, Asker(address, connect, asked.concurrency))
        if asked.restart:
            _drop_journals(asked)
        opened = Journal(sweeping.journal_path("images"), sweeping.fingerprint, Answer.of_line)
        journal = stack.enter_context(opened)
        ask = partial(ask_for_detections, parameters=sweeping.parameters)
        sweeping.asker.collect("images", work, journal, ask)
        answers = [journal.answers[item.image_id] for item in work]
        found = _chosen(asked, sweeping, work, truth, halves, answers)
        journal.remove()
    return found


def _chosen(
    asked: Calibration,
    sweeping: Sweeping,
    work: Sequence[WorkItem],
    truth: Truth,
    halves: Halves,
    answers: Sequence[Answer],
) -> Answered:
    own = sweeping.manifest.fusion
    if asked.keep_fusion:
        live = live_of(Point(fusion_name(own), own, float("nan"), float("nan")), answers, truth)
        return Answered(live, live, None)
    classes = len(truth.names)
    find = partial(best_points, metric=asked.metric, own=own, objects=truth.objects, classes=classes, halves=halves)
    ranked = rank_all(sweeping, work, truth, answers, find)
    chosen = choose_fusion(ranked, asked.metric, own, halves, always=asked.always)
    return Answered(chosen.live, ranked.live[fusion_name(own)], chosen.told)


def _sweeping(asked: Calibration, manifest: Manifest, asker: Asker) -> Sweeping:
    parameters = _parameters(manifest)
    fingerprint = {
        "parameters": parameters,
        "files": dict(manifest.files),
        "images_sha256": hash_of_images(asked.source.annotations),
    }
    return Sweeping(asker, manifest, parameters, fingerprint, asked.output)


def _drop_journals(asked: Calibration) -> None:
    for path in asked.output.parent.glob(f"{asked.output.name}*.journal.jsonl"):
        path.unlink(missing_ok=True)


def _check_served(address: str, bundle: Bundle, asked: Calibration, connect: Connect) -> None:
    async def find() -> Mapping[str, str]:
        async with connect(address) as client:
            served = await find_served(client, bundle.manifest.name, bundle.manifest.version)
        if (warning := class_warning(served, asked.source.annotations)) is not None:
            typer.secho(warning, err=True, fg=typer.colors.YELLOW)
        return served.files

    try:
        files = run_interruptible(find())
    except ValueError as error:  # no address
        raise CalibrationError(str(error)) from error
    if files != bundle.manifest.files:
        raise CalibrationError(
            f"{address} serves a {bundle.manifest.name}/{bundle.manifest.version} with other files than "
            f"{bundle.folder}; leave --server out to have a server started for this bundle"
        )


def _parameters(manifest: Manifest) -> dict[str, Any]:
    """Of every request: everything that COCO's AP looks at."""
    return {
        "score_threshold": 0.0,
        "max_detections": min(COCO_DETECTIONS, manifest.nms.max_detections),
        "timeout_ms": TIMEOUT * 1000,
        "model": manifest.name,
        "version": manifest.version,
    }

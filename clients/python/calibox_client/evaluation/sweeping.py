"""The stages of `calibox eval --sweep`: raw scores once, every ranking offline, the best ones live, and the choice."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibox_client.evaluation.asking import Asker, Tally, ask_for_detections
from calibox_client.evaluation.details import Truth
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.found import found_of
from calibox_client.evaluation.journal import Answer, Journal
from calibox_client.evaluation.metrics import coco_results
from calibox_client.evaluation.raw_scores import RawImage, RawScoresClient
from calibox_client.evaluation.sweep import BASE, Halves, Point, Sweep, fusion_name, sweep
from calibox_client.evaluation.sweep_formats import with_format_metrics
from calibox_client.evaluation.work import WorkItem
from calibox_core.bootstrap import interval
from calibox_core.coco_matching import ClassMatches, FoundObjects, match_split
from calibox_core.fusion import Exponents, Fusion, FusionName
from calibox_core.manifest import Manifest

# The best of the calibration half; the model's own ranking and `classification` are asked for live with them, and the
# choice is made among the live ones.
CONFIRMED = 2
# Two answers are the same within these: what float32 on one machine and its JSON can differ by.
SAME_BOX = 0.01  # pixels
SAME_SCORE = 1e-5


@dataclass(frozen=True, slots=True)
class Sweeping:
    """What a sweep needs to know."""

    asker: Asker
    manifest: Manifest
    parameters: Mapping[str, Any]  # of every request
    fingerprint: Mapping[str, Any]  # of what is measured
    output: Path  # journals lie beside it

    def journal_path(self, what: str) -> Path:
        """Where answers are kept until the evaluation has ended."""
        return self.output.with_name(f"{self.output.name}.{what.replace(' ', '-')}.journal.jsonl")


@dataclass(frozen=True, slots=True)
class Live:
    """The server's own answers under one ranking, images in the order of their ids."""

    point: Point
    rows: Sequence[Mapping[str, Any]]  # COCO results with all three scores
    found: Sequence[FoundObjects]
    matches: Sequence[ClassMatches]


@dataclass(frozen=True, slots=True)
class Ranked:
    """Every ranking offline, and those that were asked for live, by name."""

    swept: Sweep
    live: Mapping[str, Live]
    tally: Tally  # of asking for raw scores


def check_can_sweep(parameters: Mapping[str, Any], manifest: Manifest) -> None:
    """Whether what the server answers can be made again of its raw scores.

    Raises:
        EvaluationError: it moves boxes after the suppression, or leaves classes out.
    """
    refines = parameters.get("refine", manifest.refinement is not None and manifest.refinement.default_steps > 0)
    if refines not in (False, None, "false", "0", 0):
        raise EvaluationError("--sweep ranks boxes as they are before they are refined; give --refine false with it")
    if parameters.get("operating_point"):
        raise EvaluationError("--sweep tries rankings at every threshold; leave --operating-point out")
    if parameters.get("classes"):
        raise EvaluationError("--sweep looks at all classes; leave --classes out")


def run_sweep(
    sweeping: Sweeping,
    work: Sequence[WorkItem],
    truth: Truth,
    answers: Sequence[Answer],
    annotations: Mapping[str, Any],
) -> dict[str, Any]:
    """All stages.

    Args:
        sweeping: the settings.
        work: the images, all of the data set.
        truth: of them.
        answers: of them, under ``sweeping.parameters``.
        annotations: the COCO document; where it came of another format, that one's metrics are told too.

    Returns: what was swept and confirmed, as plain values.

    Raises:
        EvaluationError: as `rank_all`.
    """
    ranked = rank_all(sweeping, work, truth, answers, partial(_to_confirm, manifest=sweeping.manifest))
    document = _document(ranked, Halves.of(truth.image_ids))
    rows = {name: one.rows for name, one in ranked.live.items()}
    return with_format_metrics(document, rows, annotations, truth.image_ids)


def halves_with_objects(truth: Truth) -> Halves:
    """The halves of these images.

    Raises:
        EvaluationError: a half has no objects.
    """
    halves = Halves.of(truth.image_ids)
    if not all(truth.objects_I[half].sum() for half in (halves.test_I, ~halves.test_I)):
        raise EvaluationError("there must be objects in both halves, the images at even and at odd positions by id")
    return halves


def rank_all(
    sweeping: Sweeping,
    work: Sequence[WorkItem],
    truth: Truth,
    answers: Sequence[Answer],
    to_confirm: Callable[[Sweep], Sequence[Point]],
) -> Ranked:
    """Raw scores once, every ranking offline, and the server's own answers under the best.

    Args:
        sweeping: the settings.
        work: the images, all of the data set.
        truth: of them.
        answers: of them, under ``sweeping.parameters``.
        to_confirm: which rankings to ask for live.

    Raises:
        EvaluationError: a half has no objects; the server failed, or does not give raw scores; answers so far are kept.
    """
    halves_with_objects(truth)
    with ExitStack() as stack:
        rankings = fetched_rankings(sweeping.manifest)
        opened = {**sweeping.fingerprint, "candidates_of": sorted(rankings)}
        raw = stack.enter_context(Journal(sweeping.journal_path("raw"), opened, RawImage.of_line))
        ask = partial(_ask_for_raw, manifest=sweeping.manifest, rankings=list(rankings.values()))
        tally = sweeping.asker.collect("raw scores", work, raw, ask)
        images = [raw.answers[item.image_id] for item in sorted(work, key=lambda item: item.image_id)]
        swept = sweep(
            images,
            truth.objects,
            sweeping.manifest,
            iou_threshold=float(sweeping.parameters.get("iou_threshold", sweeping.manifest.thresholds.iou)),
            max_detections=int(sweeping.parameters["max_detections"]),
            classes=len(truth.names),
            label_of=_labels(sweeping.manifest, truth),
        )
        journals: list[Journal[Any]] = [raw]
        live: dict[str, Live] = {}
        for point in to_confirm(swept):
            journal = stack.enter_context(_point_journal(sweeping, point))
            journals.append(journal)
            live[point.name] = _ask_live(sweeping, point, work, truth, journal, answers)
        for journal in journals:
            journal.remove()
    return Ranked(swept, live, tally)


def fetched_rankings(manifest: Manifest) -> dict[str, Exponents]:
    """Rankings whose candidates are fetched, by name.

    A graph passes on a limited number of candidates, its best by key. Under p alone, under q alone and under the
    model's own ranking they are so different that those of a ranking in between are nearly all among them.
    """
    fusions = (manifest.fusion, Fusion(name=FusionName.CLASSIFICATION), Fusion(name=FusionName.LOCALIZATION))
    return {fusion_name(fusion): fusion.exponents() for fusion in fusions}


async def _ask_for_raw(
    client: RawScoresClient, item: WorkItem, manifest: Manifest, rankings: Sequence[Exponents]
) -> RawImage:
    return await client.raw_scores(item.image_id, item.path, manifest, rankings)


def _labels(manifest: Manifest, truth: Truth) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Place of each of the model's classes among those of the annotations, -1 where there is none."""
    places = {category: place for place, category in enumerate(truth.category_ids)}
    return np.array([places.get(c.category_id, -1) for c in manifest.classes], np.int64)


def _to_confirm(swept: Sweep, manifest: Manifest) -> list[Point]:
    by_name = {point.name: point for point in swept.points}
    names = [*(point.name for point in swept.best[:CONFIRMED]), fusion_name(manifest.fusion), BASE]
    return [by_name[name] for name in dict.fromkeys(names)]


def live_parameters(parameters: Mapping[str, Any], fusion: Fusion) -> dict[str, Any]:
    """Parameters of a request that ranks by this fusion."""
    others = {name: value for name, value in parameters.items() if name not in ("fusion", "alpha", "sigma")}
    used: dict[str, Any] = {"fusion": str(fusion.name)}
    if fusion.name in (FusionName.GEOMETRIC, FusionName.POWER):
        used["alpha"] = fusion.alpha
    if fusion.name is FusionName.GAUSSIAN:
        used["sigma"] = fusion.sigma
    return others | used


def _point_journal(sweeping: Sweeping, point: Point) -> Journal[Answer]:
    fingerprint = {**sweeping.fingerprint, "ranked_by": point.name}
    return Journal(sweeping.journal_path(point.name), fingerprint, Answer.of_line)


def _ask_live(
    sweeping: Sweeping,
    point: Point,
    work: Sequence[WorkItem],
    truth: Truth,
    journal: Journal[Answer],
    answers: Sequence[Answer],
) -> Live:
    """The server's own answers under one ranking."""
    if _is_what_was_asked(sweeping, point):
        for answer in answers:
            journal.answers.setdefault(answer.image_id, answer)
    parameters = live_parameters(sweeping.parameters, point.fusion)
    sweeping.asker.collect(point.name, work, journal, partial(ask_for_detections, parameters=parameters))
    return live_of(point, [journal.answers[item.image_id] for item in work], truth)


def live_of(point: Point, answers: Sequence[Answer], truth: Truth) -> Live:
    """Answers under one ranking, taken apart and matched."""
    rows = coco_results(answers)
    found = found_of(rows, truth.image_ids, truth.category_ids, rank_by="score")
    return Live(point, rows, found, match_split(found, truth.objects, len(truth.names)))


def _is_what_was_asked(sweeping: Sweeping, point: Point) -> bool:
    """Whether the answers that there are were ranked like this."""
    named = any(name in sweeping.parameters for name in ("fusion", "alpha", "sigma"))
    return not named and point.fusion == sweeping.manifest.fusion


def same_found(one: FoundObjects, other: FoundObjects) -> bool:
    """Whether two answers hold the same classes, boxes and scores, each in its order of score."""
    return bool(
        len(one.labels_N) == len(other.labels_N)
        and (one.labels_N == other.labels_N).all()
        and np.allclose(one.boxes_N4, other.boxes_N4, rtol=0, atol=SAME_BOX)
        and np.allclose(one.scores_N, other.scores_N, rtol=0, atol=SAME_SCORE)
    )


def _document(ranked: Ranked, halves: Halves) -> dict[str, Any]:
    swept, live = ranked.swept, ranked.live
    base_B = halves.drawn(live[BASE].matches)
    base_ap = halves.average_precisions(live[BASE].matches)[1]
    confirmed: list[dict[str, Any]] = []
    for name, one in live.items():
        calibration, test = halves.average_precisions(one.matches)
        pairs = zip(one.found, swept.found[name], strict=True)
        confirmed.append(
            {
                "name": name,
                "fusion": one.point.fusion.model_dump(mode="json"),
                "calibration_AP": calibration,
                "test_AP": test,
                "delta_AP": list(interval(test - base_ap, halves.drawn(one.matches) - base_B)),
                "offline_test_AP": one.point.test_ap,
                "images_that_differ": sum(not same_found(*pair) for pair in pairs),
            }
        )
    return {
        "chosen": max(confirmed, key=lambda one: np.nan_to_num(one["calibration_AP"]))["name"],
        "confirmed": confirmed,
        "points": [
            {
                "name": point.name,
                "fusion": point.fusion.model_dump(mode="json"),
                "calibration_AP": point.calibration_ap,
                "test_AP": point.test_ap,
            }
            for point in swept.points
        ],
        "images": len(halves.test_I),
        "test_images": int(halves.test_I.sum()),
        "images_cut": swept.cut_images,
        "raw_images_per_second": ranked.tally.per_second,
    }

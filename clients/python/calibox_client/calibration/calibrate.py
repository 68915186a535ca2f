"""All stages of a calibration in their order: ask, choose on one half, tell of the other, write."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibox_client.calibration.answers import Answered, ask_server
from calibox_client.calibration.choices import Means
from calibox_client.calibration.errors import CalibrationError
from calibox_client.calibration.judging import Judged, judge
from calibox_client.calibration.mapping import IDENTITY, Fitted, Target, choose_map
from calibox_client.calibration.order import Calibration
from calibox_client.calibration.points import Evidence, find_points
from calibox_client.calibration.publishing import Calibrated, destination_of, publish
from calibox_client.calibration.thresholds import shortest_between
from calibox_client.evaluation.asking import Connect
from calibox_client.evaluation.choices import Half
from calibox_client.evaluation.details import Truth, truth_of
from calibox_client.evaluation.sweep import Halves
from calibox_client.evaluation.sweeping import Live, halves_with_objects
from calibox_client.evaluation.work import hash_of_images, read_work
from calibox_core import __version__
from calibox_core.bundle import Bundle, read_bundle
from calibox_core.coco_matching import FoundObjects, match_split
from calibox_core.errors import BundleError
from calibox_core.manifest import Manifest
from calibox_core.operating_point import CalibrationRecord, FusionChoice, MapChoice, OperatingPoint
from calibox_core.score_map import ScoreMap


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    bundle: Bundle
    written: Path | None  # None where there was nothing to write
    calibrated: Calibrated
    judged: Judged
    halves: Halves


def run_calibration(asked: Calibration, connect: Connect) -> Outcome:
    """Asks a server about every image, chooses on the calibration half and writes the next version of the bundle.

    Args:
        asked: what to do.
        connect: makes a client of an address and of `AsyncClient`'s keyword arguments.

    Raises:
        CalibrationError, EvaluationError: something is missing, or the server failed; answers so far are kept.
        BundleError: the bundle is not whole, or the version to write is taken.
    """
    bundle = read_bundle(asked.bundle)
    destination = _free_destination(bundle, asked)
    work = read_work(asked.source.annotations, asked.source.images, Half.ALL)
    truth = truth_of(asked.source.annotations, [item.image_id for item in work])
    halves = halves_with_objects(truth)
    answered = ask_server(asked, bundle, work, truth, halves, connect)
    live = answered.live
    fitted, judged = _mapped(asked, bundle.manifest, live, truth, halves)
    points, notes = _points(asked, bundle.manifest, live, fitted, truth, halves)
    record = _record(asked, bundle.manifest, len(work), answered.choice, _told(asked, fitted, judged), notes)
    threshold = _default_threshold(bundle.manifest, answered, fitted.score_map, halves)
    calibrated = Calibrated(live.point.fusion, fitted.score_map, threshold, points, record)
    changed = points or fitted.score_map != bundle.manifest.score_map or live.point.fusion != bundle.manifest.fusion
    written = publish(bundle, calibrated, destination).folder if changed else None
    return Outcome(bundle, written, calibrated, judged, halves)


def _free_destination(bundle: Bundle, asked: Calibration) -> Path:
    """Told before the first image is asked about."""
    destination = destination_of(bundle, asked.models, asked.version)
    if destination.exists():
        raise BundleError(f"{destination} exists; choose another version or remove it first")
    refinement = bundle.manifest.refinement
    if refinement is not None and refinement.default_steps and not asked.keep_fusion:
        raise CalibrationError(
            "this model moves its boxes after the suppression, so other rankings cannot be tried on its raw scores; "
            "give --keep-fusion to calibrate the ranking that it has"
        )
    return destination


def _raw(found: Sequence[FoundObjects], score_map: ScoreMap) -> list[FoundObjects]:
    """With the graph's own scores in place of reported ones."""
    return [replace(one, scores_N=score_map.undo(one.scores_N)) for one in found]


def _mapped(asked: Calibration, manifest: Manifest, live: Live, truth: Truth, halves: Halves) -> tuple[Fitted, Judged]:
    target = Target(asked.means, asked.match_iou)
    raw = _raw(live.found, manifest.score_map)
    if asked.means is Means.NONE:
        fitted = Fitted(manifest.score_map, "kept", {})
    else:
        matches = match_split(raw, truth.objects, len(truth.names), target.thresholds)
        fitted = choose_map(matches, ~halves.test_I, target)
    return fitted, judge(live, manifest.score_map, fitted.score_map, target, truth, halves)


def _points(
    asked: Calibration, manifest: Manifest, live: Live, fitted: Fitted, truth: Truth, halves: Halves
) -> tuple[list[OperatingPoint], list[str]]:
    target = Target(Means.PRECISION, asked.match_iou)
    raw = _raw(live.found, manifest.score_map)
    called = {one.category_id: one.name for one in manifest.classes}
    names = [called.get(number, name) for number, name in zip(truth.category_ids, truth.names, strict=True)]
    matches = match_split(raw, truth.objects, len(truth.names), target.thresholds)
    evidence = Evidence(matches, names, target.right_at, ~halves.test_I)
    return find_points(asked.wanted, evidence, live.point.fusion, fitted.score_map, per_class=asked.per_class)


def _told(asked: Calibration, fitted: Fitted, judged: Judged) -> MapChoice:
    target = Target(asked.means, asked.match_iou)
    return MapChoice(
        means=str(asked.means),  # type: ignore[arg-type]  # an enumeration of the same words
        match_iou=target.told_iou,
        method=fitted.method,
        cross_validation=dict(fitted.errors),
        before=judged.before,
        after=judged.after,
        change=judged.change,
        verdict=_verdict(target, fitted, judged),
    )


def _verdict(target: Target, fitted: Fitted, judged: Judged) -> str:
    if target.means is Means.NONE:
        return "Scores are reported as before; no map was asked for."
    if fitted.method == IDENTITY:
        return "No map was better on held-out images of the calibration half; scores are those of the graph."
    error = target.name
    if error not in judged.change:
        return f"A map ({fitted.method}) was fitted; the test half has no detections to judge it by."
    change, low, high = judged.change[error]
    told = (
        f"{error.replace('_', '-')} of the score on the test half goes from {judged.before['score'][error]:.3f} to "
        f"{judged.after['score'][error]:.3f} ({change:+.3f}, 95 %: {low:+.3f} to {high:+.3f})"
    )
    helped = "it helps" if high < 0 else "it harms" if low > 0 else "that may be chance: it is not shown to help"
    others = [
        f"; {name.replace('_', '-')} {gap:+.3f} ({least:+.3f} to {most:+.3f})"
        for name, (gap, least, most) in judged.change.items()
        if name != error
    ]
    return f"With the map ({fitted.method}, to {target.means}), {told}: {helped}{''.join(others)}."


def _default_threshold(manifest: Manifest, answered: Answered, score_map: ScoreMap, halves: Halves) -> float:
    """For requests that name none: what keeps the boxes that were kept, or as many where the ranking is another."""
    old, usual = manifest.score_map, manifest.thresholds.score
    if answered.live.point.fusion == manifest.fusion:
        same = score_map == old
        return usual if same else float(score_map.apply(np.array([min(1.0, old.invert(usual))]))[0])
    kept = int((_scores(answered.own, halves) >= usual).sum())
    scores = score_map.apply(old.undo(np.append(np.sort(_scores(answered.live, halves))[::-1], 0.0)))
    last = min(kept, len(scores) - 1)
    return shortest_between(float(scores[last]), float(scores[last - 1]) if last else 1.0)


def _scores(live: Live, halves: Halves) -> NDArray[np.float64]:
    """Of every detection in the calibration half."""
    chosen = [one.scores_N for one, tested in zip(live.found, halves.test_I, strict=True) if not tested]
    return np.concatenate([np.empty(0), *chosen])


def _record(
    asked: Calibration,
    manifest: Manifest,
    images: int,
    choice: FusionChoice | None,
    told: MapChoice,
    notes: Sequence[str],
) -> CalibrationRecord:
    return CalibrationRecord(
        of_version=manifest.version,
        dataset=asked.dataset,
        split=asked.split,
        images_sha256=hash_of_images(asked.source.annotations),
        images=images,
        fusion=choice,
        score_map=told,
        notes=tuple(notes),
        calibox_version=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
    )

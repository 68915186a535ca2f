"""What calibration does to the test half: errors of the three scores before and after, and that AP stays.

Letters: N detections.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from calibox_client.calibration.effect import Change, changes
from calibox_client.calibration.mapping import Target
from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.details import (
    ScoreReport,
    Truth,
    from_threshold,
    only_images,
    operating_thresholds,
    score_report,
)
from calibox_client.evaluation.found import found_of
from calibox_client.evaluation.sweep import Halves
from calibox_client.evaluation.sweeping import Live
from calibox_core.coco_matching import ClassMatches, FoundObjects, match_split
from calibox_core.operating_point import Errors
from calibox_core.score_map import ScoreMap


@dataclass(frozen=True, slots=True)
class Judged:
    """The chosen ranking on the test half, with the old map and with the new one."""

    before: dict[str, Errors]  # by score
    after: dict[str, Errors]
    change: dict[str, Change]  # of `score`
    reports: Mapping[str, ScoreReport]  # of `score`, by "before" and "after", for plots
    ap: Mapping[str, tuple[float, float]]  # of both halves, by "before" and "after"


def judge(live: Live, old: ScoreMap, new: ScoreMap, target: Target, truth: Truth, halves: Halves) -> Judged:
    """Measures both maps.

    Args:
        live: the server's answers, whose ``score`` went through ``old``.
        old, new: maps.
        target: what the new one announces.
        truth: of the same images.
        halves: of them.
    """
    classes, ious = len(truth.names), target.thresholds
    moved = [replace(one, scores_N=new.apply(old.undo(one.scores_N))) for one in live.found]
    found: dict[str, Sequence[FoundObjects]] = {
        name: found_of(live.rows, truth.image_ids, truth.category_ids, rank_by=name)
        for name in (str(one) for one in RankBy if one is not RankBy.SCORE)
    }
    matched = {name: match_split(own, truth.objects, classes, ious) for name, own in found.items()}
    others = {name: score_report(matched[name], own, truth) for name, own in found.items()}
    before, after = (match_split(own, truth.objects, classes, ious) for own in (live.found, moved))
    reports = {"before": score_report(before, live.found, truth), "after": score_report(after, moved, truth)}
    kept, kept_after = _kept(before, halves), _kept(after, halves)
    unmapped = {name: dict(one.errors) for name, one in others.items()}
    return Judged(
        before={"score": {**reports["before"].errors, target.name: target.error(kept)}, **unmapped},
        after={"score": {**reports["after"].errors, target.name: target.error(kept_after)}, **unmapped},
        change=changes(kept, kept_after, halves.test_I, target),
        reports=reports,
        ap={
            "before": halves.average_precisions(live.matches),
            "after": halves.average_precisions(match_split(moved, truth.objects, classes)),
        },
    )


def _kept(matches: Sequence[ClassMatches], halves: Halves) -> list[ClassMatches]:
    """Of the test half, what reaches the thresholds of least LRP of the calibration half."""
    thresholds = operating_thresholds([only_images(one, ~halves.test_I) for one in matches])
    tested = [only_images(one, halves.test_I) for one in matches]
    return [from_threshold(one, threshold) for one, threshold in zip(tested, thresholds, strict=True)]

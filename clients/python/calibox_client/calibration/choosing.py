"""Which ranking: the best on the calibration half, where it is better than the model's own by more than chance.

Letters: I images, B resamplings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from calibox_client.calibration.choices import Metric
from calibox_client.evaluation.sweep import BASE, DRAWS, Halves, Point, Sweep, fusion_name
from calibox_client.evaluation.sweeping import CONFIRMED, Live, Ranked
from calibox_core.bootstrap import Interval, average_precision, resampled
from calibox_core.coco_matching import ClassMatches, ObjectBoxes, match_split
from calibox_core.fusion import Fusion
from calibox_core.lrp import resampled_lrp
from calibox_core.operating_point import Errors, FusionChoice

_COLUMNS = {Metric.AP: slice(None), Metric.AP50: slice(0, 1), Metric.AP75: slice(5, 6), Metric.AP90: slice(8, 9)}


def values(metric: Metric, matches: Sequence[ClassMatches], weights_BI: NDArray[np.float32]) -> NDArray[np.float64]:
    """The metric of each resampling, ``[B]``, of matches at COCO's thresholds; NaN without objects."""
    if metric is Metric.OLRP:
        return resampled_lrp(matches, weights_BI)
    mean_B: NDArray[np.float64] = average_precision(matches, weights_BI)[:, _COLUMNS[metric]].mean(axis=1)
    return mean_B


def gain(metric: Metric, before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much better ``after`` is: of an error the less."""
    return np.asarray(before - after if metric is Metric.OLRP else after - before)


def of_halves(metric: Metric, matches: Sequence[ClassMatches], halves: Halves) -> tuple[float, float]:
    """The metric on the calibration half and on the test half."""
    calibration, test = values(metric, matches, np.stack([~halves.test_I, halves.test_I]).astype(np.float32))
    return float(calibration), float(test)


def best_points(
    swept: Sweep, metric: Metric, own: Fusion, objects: Sequence[ObjectBoxes], classes: int, halves: Halves
) -> list[Point]:
    """Rankings to ask for live: the best offline, the model's own and `classification`."""
    chosen = (~halves.test_I)[None].astype(np.float32)
    nothing = np.zeros(1)

    def worth(point: Point) -> float:
        found = values(metric, match_split(swept.found[point.name], objects, classes), chosen)
        return float(np.nan_to_num(gain(metric, nothing, found), nan=-np.inf)[0])

    worths = {point.name: worth(point) for point in swept.points}
    by_name = {point.name: point for point in swept.points}
    best = sorted(by_name, key=lambda name: -worths[name])[:CONFIRMED]
    return [by_name[name] for name in dict.fromkeys([*best, fusion_name(own), BASE])]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The ranking, and why."""

    live: Live
    told: FusionChoice


def choose_fusion(ranked: Ranked, metric: Metric, own: Fusion, halves: Halves, *, always: bool) -> Chosen:
    """The best on the calibration half of those that were asked for live, or the model's own.

    Args:
        ranked: answers by ranking, and every ranking that was tried.
        metric: to compare by.
        own: the model's ranking.
        halves: of the images.
        always: take the best even where its gain may be chance.
    """
    name, live = fusion_name(own), ranked.live
    both = {other: of_halves(metric, one.matches, halves) for other, one in live.items()}
    nothing = np.zeros(len(both))
    gains = gain(metric, nothing, np.array([calibration for calibration, _ in both.values()]))
    best = list(both)[int(np.nan_to_num(gains, nan=-np.inf).argmax())]
    tried = len(ranked.swept.points) - 1
    margin = _margin(metric, live[name], live[best], halves, tried)
    changed = best != name and (always or margin[1] > 0)
    chosen = best if changed else name
    candidates: dict[str, Errors] = {other: {"calibration": of[0], "test": of[1]} for other, of in both.items()}
    verdict = _verdict(metric, name, best, margin, tried, changed=changed)
    return Chosen(live[chosen], FusionChoice(metric=str(metric), candidates=candidates, chosen=chosen, verdict=verdict))


def _margin(metric: Metric, own: Live, best: Live, halves: Halves, tried: int) -> Interval:
    """What the best gains on the calibration half, with an interval that knows that it is the best of many.

    The more rankings are tried, the further the luckiest of equals is ahead: each may then be wrong with a share of the
    5 % only (Bonferroni), which is so far out that the tail is that of a normal distribution with the spread of paired
    resamplings.
    """
    weights_BI = np.zeros((DRAWS, len(halves.test_I)), np.float32)
    weights_BI[:, ~halves.test_I] = resampled(int((~halves.test_I).sum()), DRAWS)
    whole = (~halves.test_I)[None].astype(np.float32)
    estimate, drawn = (
        gain(metric, values(metric, own.matches, w), values(metric, best.matches, w)) for w in (whole, weights_BI)
    )
    reach = NormalDist().inv_cdf(1 - 0.025 / tried) * float(np.nanstd(drawn))
    return float(estimate[0]), float(estimate[0]) - reach, float(estimate[0]) + reach


def _verdict(metric: Metric, own: str, best: str, margin: Interval, tried: int, *, changed: bool) -> str:
    if best == own:
        return f"The model's own ranking, {own}, is the best by {metric} on the calibration half; it stays."
    told = "{:+.4f} ({:+.4f} to {:+.4f}, 95 % for the best of {})".format(*margin, tried)
    if not changed:
        return f"{best} gains {told} in {metric} on the calibration half over {own}, which may be chance; {own} stays."
    sure = "" if margin[1] > 0 else ", which may be chance and was asked for all the same"
    return f"{best} takes the place of {own}: it gains {told} in {metric} on the calibration half{sure}."

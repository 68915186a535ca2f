"""Raw outputs of a cell to its result: every ranking on the same outputs, with intervals over images."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bootstrap import average_precision, interval, recall, resampled, whole
from calibox_core.coco_matching import ClassMatches, ObjectBoxes, annotated_objects, match_split
from calibox_core.dataset import DataFolder, calibration_and_test_ids
from calibox_training.checkpoint import TrainedModel, current_commit
from calibox_training.data.coco import read_records
from calibox_training.reproduce.calibration import correlations, laece0, reliability
from calibox_training.reproduce.rankings import (
    ALPHAS,
    ImageFound,
    geometric_name,
    own_ranking,
    ranked,
    rankings,
)
from calibox_training.reproduce.raw import RawSplit, read_raw
from calibox_training.reproduce.results import (
    BASE,
    DRAW_UNIT,
    DRAWN,
    METRICS,
    CellResult,
    Chosen,
    RankingResult,
    Trained,
    named_metrics,
)

DRAWS = 1000  # of rankings that a paper or the protocol names
SIDE_DRAWS = 200  # of the others: points of a curve
NAMED = (BASE, "product", "geometric 0.5", "power 0.3", "gaussian 1", "LC", "LC+CS", "shuffled", "oracle")
PLOTTED = (BASE, "product", "geometric 0.5")
AT_90 = METRICS["AP90"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One ranking, before intervals."""

    found: list[ImageFound]
    matches: list[ClassMatches]


@dataclass(frozen=True, slots=True)
class Ground:
    """What all rankings of a cell are measured against."""

    split: RawSplit
    objects: list[ObjectBoxes]
    classes: int

    @property
    def has_quality(self) -> bool:
        """Without a quality branch there is one ranking."""
        return self.split.recipe.model.quality.method != "none"

    @property
    def image_ids(self) -> list[int]:
        """In the order of the split."""
        return [image.record.image_id for image in self.split.images]

    def measure(self, name: str) -> Measured:
        """Detections and matches of one ranking."""
        found = list(ranked(self.split, rankings()[name]))
        return Measured(found, match_split(found, self.objects, self.classes))


@dataclass(frozen=True, slots=True)
class Ranked:
    """All rankings of a cell; the resamplings of the images are the same in each."""

    measured: dict[str, Measured]
    drawn: dict[str, NDArray[np.float64]]  # [B, T] AP of each resampling at each threshold
    results: dict[str, RankingResult]


def open_ground(model: TrainedModel, data: DataFolder, raw: Path) -> Ground:
    """Stored outputs, objects as annotated, and the number of classes.

    Raises:
        RawError: ``raw`` is not of this data set.
    """
    annotations = data.annotations("val")
    split = read_raw(raw, model.recipe, read_records(annotations, model.classes))
    return Ground(split, annotated_objects(annotations, [c.category_id for c in model.classes]), len(model.classes))


def rank_all(ground: Ground, *, own: str, draws: int) -> Ranked:
    """Every ranking that the model's scores allow.

    Args:
        ground: from `open_ground`.
        own: the recipe's ranking.
        draws: resamplings behind the intervals of the named rankings; the others get at most `SIDE_DRAWS`.
    """
    names = tuple(rankings()) if ground.has_quality else (BASE,)
    measured = {name: ground.measure(name) for name in names}
    weights = {
        name: resampled(len(ground.objects), draws if name in {*NAMED, own} else min(draws, SIDE_DRAWS))
        for name in names
    }
    drawn = {name: average_precision(measured[name].matches, weights[name]) for name in names}
    results = {name: ranking_result(measured[name], drawn[name], measured[BASE], drawn[BASE]) for name in names}
    return Ranked(measured, drawn, results)


def analyse(trained: Trained, model: TrainedModel, data: DataFolder, raw: Path, *, draws: int = DRAWS) -> CellResult:
    """The result of a cell: ``trained`` its facts, ``raw`` the npz of `evaluate_raw`."""
    start = time.monotonic()
    own = own_ranking(model.recipe.fusion, model.recipe.nms.out_score)
    ground = open_ground(model, data, raw)
    found = rank_all(ground, own=own, draws=draws)
    chosen, chosen_draws = _chosen(found.measured, ground.image_ids, draws) if ground.has_quality else (None, {})
    kept = [name for name in dict.fromkeys(("product", own)) if name in found.drawn and name != BASE]
    return CellResult(
        trained=trained,
        analysed_by=current_commit(),
        analysis_seconds=round(time.monotonic() - start, 1),
        images=len(ground.objects),
        objects=sum(int((~one.crowd_G).sum()) for one in ground.objects),
        own=own,
        rankings=found.results,
        chosen=chosen,
        delta_draws={
            **{name: whole_units(found.drawn[name] - found.drawn[BASE]) for name in kept},
            **chosen_draws,
        },
        reliability={name: reliability(found.measured[name].found) for name in PLOTTED if name in found.measured},
    )


def ranking_result(
    one: Measured,
    drawn: NDArray[np.float64],
    base: Measured,
    base_drawn: NDArray[np.float64],
    images: NDArray[np.float32] | None = None,
) -> RankingResult:
    """On the images of weight 1; all where None. Paired draws: the shorter list's are the first of the longer."""
    weights = whole(len(one.found)) if images is None else images[None]
    used = [found for found, weight in zip(one.found, weights[0], strict=True) if weight]
    at, base_at = (average_precision(m.matches, weights)[0] for m in (one, base))
    count = len(drawn)
    delta = drawn - base_drawn[:count]
    metrics, base_metrics = named_metrics(at), named_metrics(base_at)
    differences = named_metrics(delta)
    return RankingResult(
        metrics={name: _rounded(value) for name, value in metrics.items()},
        by_threshold=tuple(round(float(value), 6) for value in at),
        correlation={name: _rounded(value) for name, value in correlations(used).items()},
        laece0=_rounded(laece0(used, [int(weights[0] @ m.objects_I) for m in one.matches])),
        recall90=_rounded(recall(one.matches, weights[0], int(AT_90 or 0))),
        draws=count,
        delta={name: interval(metrics[name] - base_metrics[name], differences[name]) for name in METRICS},
        delta_by_threshold=tuple(interval(at[t] - base_at[t], delta[:, t]) for t in range(len(at))),
    )


def _chosen(
    measured: Mapping[str, Measured], image_ids: Sequence[int], draws: int
) -> tuple[Chosen, dict[str, dict[str, list[int]]]]:
    """Alpha by the calibration half, measured on the test half."""
    _, test_ids = calibration_and_test_ids(image_ids)
    test = np.isin(image_ids, test_ids).astype(np.float32)
    names = {alpha: geometric_name(alpha) for alpha in ALPHAS}
    on_calibration = {
        alpha: float(average_precision(measured[name].matches, (1 - test)[None])[0].mean())
        for alpha, name in names.items()
    }
    alpha = max(on_calibration, key=lambda value: on_calibration[value])
    fused, base = measured[names[alpha]], measured[BASE]
    weights = np.zeros((draws, len(test)), np.float32)
    weights[:, test > 0] = resampled(int(test.sum()), draws)
    drawn, base_drawn = (average_precision(one.matches, weights) for one in (fused, base))
    chosen = Chosen(
        alpha=alpha,
        calibration_ap=round(on_calibration[alpha], 6),
        test_images=int(test.sum()),
        classification=ranking_result(base, base_drawn, base, base_drawn, test),
        fused=ranking_result(fused, drawn, base, base_drawn, test),
    )
    return chosen, {"chosen": whole_units(drawn - base_drawn)}


def whole_units(delta_BT: NDArray[np.float64]) -> dict[str, list[int]]:
    """Each draw's difference in the metrics of `DRAWN`, in units of `DRAW_UNIT`."""
    differences = named_metrics(np.nan_to_num(delta_BT))
    return {name: [round(float(value) / DRAW_UNIT) for value in differences[name]] for name in DRAWN}


def _rounded(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else round(float(value), 6)

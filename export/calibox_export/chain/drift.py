"""How far the answers of one place are from those of another.

Letters: B resamplings, I images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bootstrap import average_precision, interval, resampled, whole
from calibox_core.coco_matching import ObjectBoxes, annotated_objects, match_split
from calibox_core.errors import DatasetError
from calibox_core.manifest import Manifest
from calibox_core.parity import Difference, Drift, Gap
from calibox_export.chain.answers import Answer
from calibox_export.engines.accuracy import Found, paired
from calibox_export.sameness import TWO_FRAMEWORKS, Outcome, compare_rows

DRAWS = 1000
# Half a pixel on every side: a box beside the image is clipped to a line, and shall still find its partner.
_WIDER = np.array([-0.5, -0.5, 0.5, 0.5], np.float32)
# Which of the ten IoU thresholds a metric is the mean over.
_NAMED = {"AP": slice(None), "AP75": slice(5, 6)}


@dataclass(frozen=True, slots=True)
class Measure:
    """AP of one place: on the images, and on resamplings of them, which are the same for all places."""

    metrics: dict[str, float | None]
    draws_B: dict[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Taken:
    """Everything that one place answered."""

    answers: Sequence[Answer]
    measure: Measure


def take(answers: Sequence[Answer], objects: Sequence[ObjectBoxes], classes: int) -> Taken:
    """Answers in the order of images, with their AP."""
    matches = match_split([answer.found for answer in answers], objects, classes)
    estimate_T = average_precision(matches, whole(len(objects)))[0]
    drawn_BT = average_precision(matches, resampled(len(objects), DRAWS))
    values = {name: float(estimate_T[part].mean()) for name, part in _NAMED.items()}
    return Taken(
        answers,
        Measure(
            {name: None if np.isnan(value) else value for name, value in values.items()},
            {name: drawn_BT[:, part].mean(axis=1) for name, part in _NAMED.items()},
        ),
    )


def objects_of(annotations: Mapping[str, Any], image_ids: Sequence[int], manifest: Manifest) -> list[ObjectBoxes]:
    """Objects of the images with these ids, in the order of ids.

    Raises:
        DatasetError: one is of a category that the model does not know.
    """
    wanted = set(image_ids)
    rows = [entry for entry in annotations["annotations"] if entry["image_id"] in wanted]
    categories = [entry.category_id for entry in manifest.classes]
    strange = sorted({entry["category_id"] for entry in rows} - set(categories))
    if strange:
        raise DatasetError(
            f"objects are annotated as category {strange[0]}, and {manifest.name}/{manifest.version} knows "
            f"{', '.join(map(str, categories))}: name the data that it was trained on with --data"
        )
    images = [entry for entry in annotations["images"] if entry["id"] in wanted]
    return annotated_objects({**annotations, "images": images, "annotations": rows}, categories)


def drift_between(one: Taken, other: Taken) -> Drift:
    """Of ``other``'s answers from those of ``one``, whose candidates say what is sure."""
    outcomes = [_compare(before, after) for before, after in zip(one.answers, other.answers, strict=True)]
    pairs = [_gaps(before, after) for before, after in zip(one.answers, other.answers, strict=True)]
    gaps_4P = np.concatenate([np.empty((4, 0)), *pairs], axis=1)
    rows = sum(len(answer.rows.labels) for answer in (*one.answers, *other.answers))
    box, score, classification, localization = (
        Gap(mean=float(row.mean()) if len(row) else 0.0, largest=float(row.max(initial=0))) for row in gaps_4P
    )
    return Drift(
        same_images=float(np.mean([outcome.different == 0 for outcome in outcomes])),
        different=sum(outcome.different for outcome in outcomes),
        excused=sum(outcome.excused for outcome in outcomes),
        unpaired=1 - 2 * gaps_4P.shape[1] / rows if rows else 0.0,
        box=box,
        score=score,
        classification_score=classification,
        localization_score=localization,
        metrics={name: _difference(one.measure, other.measure, name) for name in _NAMED},
    )


def _compare(before: Answer, after: Answer) -> Outcome:
    if before.certain is None:
        raise ValueError("answers without candidates can only come last")
    return compare_rows(after.rows, before.certain.sure, before.certain.expected_N, TWO_FRAMEWORKS)


def _gaps(before: Answer, after: Answer) -> NDArray[np.float64]:
    """Of boxes, reported, classification and localization scores of paired detections, ``[4, pairs]``."""
    one, other = before.rows, after.rows
    rows, columns = paired(_found(before), _found(after))
    scores = [
        np.abs(getattr(one, name)[rows] - getattr(other, name)[columns])
        for name in ("scores", "classification_scores", "localization_scores")
    ]
    return np.stack([np.abs(one.boxes[rows] - other.boxes[columns]).max(axis=1, initial=0), *scores]).astype(np.float64)


def _found(answer: Answer) -> Found:
    return Found(answer.rows.boxes + _WIDER, answer.rows.labels, answer.scores_N)


def _difference(one: Measure, other: Measure, name: str) -> Difference | None:
    before, after = one.metrics[name], other.metrics[name]
    if before is None or after is None:
        return None
    value, low, high = interval(after - before, other.draws_B[name] - one.draws_B[name])
    return Difference(value=value, low=low, high=high)

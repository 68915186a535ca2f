"""Two results on the same images: differences of AP with paired bootstrap intervals, and the other measures.

Images are drawn with replacement, the same ones for both, so that what makes an image hard for both cancels out.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from calibox_client.evaluation.choices import Half, RankBy
from calibox_client.evaluation.details import MATCH_IOUS as CALIBRATION_IOUS
from calibox_client.evaluation.details import Truth, calibration_errors, truth_of
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.evaluation.found import found_of
from calibox_client.evaluation.source import Source
from calibox_client.evaluation.work import half_of
from calibox_core.bootstrap import average_precision, interval, resampled, whole
from calibox_core.coco_matching import match_split
from calibox_core.lrp import mean_lrp, optimal_lrp

DRAWS = 1000
_NAMED = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6), "AP90": slice(8, 9)}
_KEYS = ("image_id", "category_id", "bbox")


def compare_and_tell(files: tuple[Path, Path], source: Source, half: Half, rank_by: RankBy, *, as_json: bool) -> None:
    """Prints the comparison.

    Args:
        files: COCO results, the earlier first.
        source: what they were measured on.
        half: of it.
        rank_by: the score that orders detections.
        as_json: print one JSON object.

    Raises:
        EvaluationError: a file is no COCO results of these images, or they have no objects.
    """
    image_ids = half_of([entry["id"] for entry in source.annotations["images"]], half)
    truth = truth_of(source.annotations, image_ids)
    if not truth.objects_I.sum():
        raise EvaluationError("there is nothing to compare by: these images have no objects")
    known = {entry["id"] for entry in source.annotations["images"]}
    first, second = (read_results(path, known, rank_by) for path in files)
    document = {
        "first": str(files[0]),
        "second": str(files[1]),
        "images": len(image_ids),
        "half": str(half),
        "rank_by": str(rank_by),
        "draws": DRAWS,
        **compare_results(first, second, truth, rank_by),
    }
    typer.echo(json.dumps(document) if as_json else comparison_text(document))


def refuse_beside_compare(options: Mapping[str, Any]) -> None:
    """Options that measure a server have nothing to say where none is asked.

    Raises:
        EvaluationError: one of them was given.
    """
    if named := [name for name, value in options.items() if value]:
        raise EvaluationError(f"--compare reads two results files and asks no server; leave {', '.join(named)} out")


def read_results(path: Path, image_ids: set[int], rank_by: RankBy) -> list[dict[str, Any]]:
    """COCO results of a file.

    Raises:
        EvaluationError: it is none, lacks the score, or is of other images.
    """
    try:
        rows = json.loads(path.read_bytes())
        lacking = {key for row in rows for key in (*_KEYS, rank_by) if key not in row}
    except (OSError, ValueError, TypeError) as error:
        raise EvaluationError(f"{path} cannot be read as COCO results: {error}") from error
    if lacking:
        raise EvaluationError(f"{path} is no COCO results with the score {rank_by}: entries lack {', '.join(lacking)}")
    strange = sorted({row["image_id"] for row in rows} - image_ids)
    if strange:
        raise EvaluationError(
            f"{path} holds {len(strange)} images that the annotations do not, for example {strange[0]}; "
            "is it of other data?"
        )
    return list(rows)


def compare_results(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], truth: Truth, rank_by: RankBy
) -> dict[str, Any]:
    """Metrics of both, and for those of AP the difference with its 95 % interval.

    Returns: ``metrics``: by name ``first``, ``second``, ``difference`` and, of AP, ``low`` and ``high``.
    """
    found = [found_of(rows, truth.image_ids, truth.category_ids, rank_by=rank_by) for rows in (first, second)]
    weights = resampled(len(truth.image_ids), DRAWS)
    matches = [match_split(own, truth.objects, len(truth.names)) for own in found]
    at = [average_precision(own, whole(len(truth.image_ids)))[0] for own in matches]
    drawn = [average_precision(own, weights) for own in matches]
    metrics: dict[str, dict[str, float | None]] = {}
    for name, part in _NAMED.items():
        one, other = (float(own[part].mean()) for own in at)
        difference, low, high = interval(other - one, (drawn[1] - drawn[0])[:, part].mean(axis=1))
        metrics[name] = {"first": one, "second": other, "difference": difference, "low": low, "high": high}
    others = [_others(own, truth) for own in found]
    for name, value in others[0].items():
        then = others[1][name]
        gap = None if value is None or then is None else then - value
        metrics[name] = {"first": value, "second": then, "difference": gap}
    return {"metrics": metrics}


def _others(found: Sequence[Any], truth: Truth) -> dict[str, float | None]:
    """Errors over all detections."""
    matches = match_split(found, truth.objects, len(truth.names), np.array(CALIBRATION_IOUS))
    last = len(CALIBRATION_IOUS) - 1
    return {**mean_lrp([optimal_lrp(one, last) for one in matches]), **calibration_errors(matches)}


def comparison_text(document: Mapping[str, Any]) -> str:
    """The comparison for people."""
    lines = [
        f"{document['second']} against {document['first']}, {document['images']} images ({document['half']}), "
        f"ranked by {document['rank_by']}",
        f"{'':22}{'first':>9}{'second':>9}{'difference':>12}  95 % interval ({document['draws']} paired resamplings)",
    ]
    for name, row in document["metrics"].items():
        values = "".join(
            f"{'-' if row[key] is None else format(row[key], form):>{width}}"
            for key, form, width in (("first", ".4f", 9), ("second", ".4f", 9), ("difference", "+.4f", 12))
        )
        shown = f"  [{row['low']:+.4f}, {row['high']:+.4f}]{_told(row)}" if "low" in row else ""
        lines.append(f"{name:22}{values}{shown}")
    return "\n".join(lines)


def _told(row: Mapping[str, float]) -> str:
    return "" if row["low"] > 0 or row["high"] < 0 else "  may be chance"

"""What `calibox calibrate` promised of a model, held against the images that are measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calibox_client.evaluation.details import MATCH_IOUS, Truth, score_report
from calibox_client.evaluation.found import Rows, found_of
from calibox_client.evaluation.rates import Counts, measure_rates
from calibox_client.evaluation.served import Served
from calibox_core.coco_matching import FoundObjects, match_split
from calibox_core.coco_metrics import Metrics
from calibox_core.manifest import Manifest

_BETTER_BY = 0.001  # of an error; less is not worth a word


def calibration_facts(served: Served, parameters: Mapping[str, Any], results: Rows, truth: Truth) -> dict[str, Any]:
    """Of an operating point that was asked for its precision and recall; of a score map what it does to the errors.

    Args:
        served: the model.
        parameters: of every request.
        results: COCO results of the images.
        truth: of the same images.

    Returns: ``operating_point`` and ``calibrated``, each where there is one.
    """
    if not (served.document.get("calibration") or "operating_point" in parameters):
        return {}
    manifest = served.manifest()
    found = found_of(results, truth.image_ids, truth.category_ids, rank_by="score")
    told: dict[str, Any] = {}
    if "operating_point" in parameters:
        told["operating_point"] = _point(manifest, str(parameters["operating_point"]), found, truth)
    if not manifest.score_map.is_identity:
        told["calibrated"] = _map(manifest, found, truth)
    return told


def _point(manifest: Manifest, name: str, found: Sequence[FoundObjects], truth: Truth) -> dict[str, Any]:
    point = next(one for one in manifest.operating_points if one.name == name)
    ious = np.array([point.wanted.match_iou])
    counts = Counts.of(match_split(found, truth.objects, len(truth.names), ious), 0)
    wanted = point.wanted.model_dump(mode="json")
    return {"name": name, "wanted": wanted, **measure_rates(counts).model_dump(mode="json")}


def _map(manifest: Manifest, found: Sequence[FoundObjects], truth: Truth) -> dict[str, Any]:
    raw = [replace(one, scores_N=manifest.score_map.undo(one.scores_N)) for one in found]
    with_map, without = (
        score_report(match_split(own, truth.objects, len(truth.names), np.array(MATCH_IOUS)), own, truth).errors
        for own in (found, raw)
    )
    record = manifest.calibration
    means = "precision" if record is None else record.score_map.means
    return {"means": means, "with_map": with_map, "without_map": without, "verdict": map_verdict(with_map, without)}


def map_verdict(with_map: Metrics, without: Metrics) -> str:
    """Which errors of the score its map makes less, and which more, on these images."""
    less: list[str] = []
    more: list[str] = []
    for name in ("D_ECE", "LaECE", "LaECE0", "LaACE0"):
        one, other = with_map[name], without[name]
        if one is not None and other is not None and abs(one - other) >= _BETTER_BY:
            (less if one < other else more).append(f"{name.replace('_', '-')} ({other:.3f} to {one:.3f})")
    parts = [f"{how} {', '.join(names)}" for how, names in (("lowers", less), ("raises", more)) if names]
    return f"On these images the score map {' and '.join(parts) or 'changes no error'}."

"""Metrics that a data format defines for itself, beside COCO's."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from calibox_core.kitti_metrics import kitti_metrics
from calibox_core.voc import FORMAT_KEY
from calibox_core.voc_metrics import voc_metrics

Rows = Sequence[Mapping[str, Any]]
_METRICS: dict[str, Callable[[Mapping[str, Any], Rows], dict[str, float | None]]] = {
    "voc": voc_metrics,
    "kitti": kitti_metrics,
}


def format_metrics(
    annotations: Mapping[str, Any],
    detections: Rows,
    *,
    image_ids: Collection[int] | None = None,
    rank_by: str = "score",
) -> dict[str, float | None]:
    """The own metrics of the format that a document came from; none for COCO.

    Args:
        annotations: a COCO document, whose ``info`` says the format where it is another.
        detections: COCO results with ``rank_by``.
        image_ids: images to measure on; all when None.
        rank_by: the key that orders detections.

    Returns: metrics in 0..1 by name, None where nothing can be measured.
    """
    measure = _METRICS.get((annotations.get("info") or {}).get(FORMAT_KEY, ""))
    if measure is None:
        return {}
    chosen = {image["id"] for image in annotations["images"]} if image_ids is None else set(image_ids)
    return measure(
        {
            **annotations,
            "images": [image for image in annotations["images"] if image["id"] in chosen],
            "annotations": [a for a in annotations["annotations"] if a["image_id"] in chosen],
        },
        [{**found, "score": found[rank_by]} for found in detections if found["image_id"] in chosen],
    )

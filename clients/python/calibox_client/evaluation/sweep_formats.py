"""A sweep on VOC and KITTI: the rankings that were asked for live, by the metrics of the data's own format."""

from collections.abc import Mapping, Sequence
from typing import Any

from calibox_core.coco_metrics import Metrics
from calibox_core.dataset import calibration_and_test_ids
from calibox_core.format_metrics import format_metrics

Rows = Sequence[Mapping[str, Any]]  # COCO results


def with_format_metrics(
    swept: Mapping[str, Any], rows: Mapping[str, Rows], annotations: Mapping[str, Any], image_ids: Sequence[int]
) -> dict[str, Any]:
    """The document of a sweep, to each live ranking of which ``calibration_own`` and ``test_own`` are added.

    Args:
        swept: the document.
        rows: of each ranking that was asked for live, by its name.
        annotations: a COCO document, whose ``info`` says the format; nothing is added for COCO.
        image_ids: that were measured.
    """
    halves = dict(zip(("calibration_own", "test_own"), calibration_and_test_ids(image_ids), strict=True))

    def own(name: str) -> dict[str, Metrics]:
        found = {half: format_metrics(annotations, rows[name], image_ids=ids) for half, ids in halves.items()}
        return found if all(found.values()) else {}

    return {**swept, "confirmed": [{**one, **own(one["name"])} for one in swept["confirmed"]]}


def own_rows(swept: Mapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Metrics]]:
    """Columns and rows of a table of these metrics on the test half, by ranking; no rows for COCO."""
    rows = {one["name"]: one["test_own"] for one in swept["confirmed"] if "test_own" in one}
    return tuple(next(iter(rows.values()), {})), rows

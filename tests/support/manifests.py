"""A small whole manifest, to be changed by keyword."""

from datetime import UTC, datetime
from typing import Any

from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import ClassInfo, DatasetInfo, InputSpec, Manifest, Provenance, QualitySpec
from calibox_core.nms import NmsAttributes


def small_manifest(**changes: Any) -> Manifest:
    """A manifest without files; `changes` replace whole fields."""
    fields: dict[str, Any] = {
        "name": "small",
        "version": "1",
        "classes": (ClassInfo(name="cat", category_id=17), ClassInfo(name="dog", category_id=18)),
        "input": InputSpec(height=96, width=128),
        "fusion": Fusion(name=FusionName.GEOMETRIC, alpha=0.5),
        "nms": NmsAttributes(),
        "quality": QualitySpec(method="iou_aware"),
        "dataset": DatasetInfo(name="pets", license="MIT", train_images=3, val_images=2, sha256="0" * 64),
        "provenance": Provenance(
            recipe_name="small",
            recipe={"seed": 7, "optimizer": {"lr": 0.01}},
            commit="0" * 40,
            seed=7,
            calibox_version="0.1.0",
            torch_version="2.14.1",
            created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        ),
    }
    return Manifest(**(fields | changes))

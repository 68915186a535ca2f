"""A small whole manifest, to be changed by keyword."""

from datetime import UTC, datetime
from typing import Any

from calibox_core.fusion import Fusion, FusionName
from calibox_core.manifest import ClassInfo, DatasetInfo, InputSpec, Manifest, Provenance, QualitySpec
from calibox_core.nms import NmsAttributes
from calibox_core.operating_point import OperatingPoint, PointMeasure, Rate, Wanted


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


def small_point(name: str, **changes: Any) -> OperatingPoint:
    """An operating point of `small_manifest`; `changes` replace whole fields."""
    rate = Rate(value=0.9, low=0.8, high=0.95)
    measure = PointMeasure(images=2, objects=3, detections=4, precision=rate, recall=rate, f1=rate)
    fields: dict[str, Any] = {
        "name": name,
        "wanted": Wanted(measure="precision", value=0.9, match_iou=0.5),
        "fusion": Fusion(name=FusionName.POWER, alpha=2.0),
        "score_threshold": 0.5,
        "class_thresholds": {"dog": 0.25},
        "calibration": measure,
        "test": measure,
    }
    return OperatingPoint(**(fields | changes))

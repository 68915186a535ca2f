"""A sweep on VOC or KITTI tells its live rankings by that format's metrics, on each half."""

from typing import Any

import pytest

from calibox_client.evaluation.sweep_formats import own_rows, with_format_metrics
from calibox_core.voc import FORMAT_KEY

BOX = [0, 0, 50, 50]
OBJECT = {"category_id": 1, "iscrowd": 0, "difficult": 0, "kitti_type": "Car", "truncated": 0.0, "occluded": 0}
SWEPT = {"chosen": "product", "confirmed": [{"name": "product", "test_AP": 0.5}, {"name": "classification"}]}


def document(kind: str) -> dict[str, Any]:
    """Four images with an object each; those at even positions by id choose."""
    ids = range(1, 5)
    return {
        "info": {FORMAT_KEY: kind},
        "images": [{"id": image} for image in ids],
        "annotations": [{"id": image, "image_id": image, "bbox": BOX, **OBJECT} for image in ids],
        "categories": [{"id": 1, "name": "Car"}],
    }


def found(*images: int) -> list[dict[str, Any]]:
    """Every object of these images."""
    return [{"image_id": image, "category_id": 1, "bbox": BOX, "score": 0.9} for image in images]


# One ranking finds everything on the calibration half (1 and 3), the other on the test half (2 and 4).
ROWS = {"product": found(1, 3), "classification": found(2, 4)}


def test_each_half_is_measured_by_the_format_s_own() -> None:
    told = with_format_metrics(SWEPT, ROWS, document("voc"), [1, 2, 3, 4])
    product, classification = told["confirmed"]
    assert product["test_AP"] == 0.5
    assert product["calibration_own"] == classification["test_own"] == {"VOC07_AP50": 1.0, "VOC12_AP50": 1.0}
    assert product["test_own"] == classification["calibration_own"] == {"VOC07_AP50": 0.0, "VOC12_AP50": 0.0}
    columns, rows = own_rows(told)
    assert columns == ("VOC07_AP50", "VOC12_AP50")
    assert rows == {"product": product["test_own"], "classification": classification["test_own"]}
    assert told["chosen"] == SWEPT["chosen"]


def test_kitti_has_its_own_too() -> None:
    told = with_format_metrics(SWEPT, ROWS, document("kitti"), [1, 2, 3, 4])
    columns, rows = own_rows(told)
    assert columns
    assert all(name.startswith("KITTI") for name in columns)
    assert rows["classification"] != rows["product"]


@pytest.mark.parametrize("kind", ["", "coco"])
def test_coco_adds_nothing(kind: str) -> None:
    told = with_format_metrics(SWEPT, ROWS, document(kind), [1, 2, 3, 4])
    assert told == SWEPT
    assert own_rows(told) == ((), {})

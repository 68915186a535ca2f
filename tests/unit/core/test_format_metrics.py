"""Which metrics of its own a data set has, and on which images."""

from typing import Any

import pytest

from calibox_core.format_metrics import format_metrics
from calibox_core.kitti_metrics import kitti_metrics
from calibox_core.voc import FORMAT_KEY
from calibox_core.voc_metrics import voc_metrics

BOXES = {1: [0, 0, 50, 50], 2: [10, 10, 60, 60]}
OBJECT = {"category_id": 1, "iscrowd": 0, "difficult": 0, "kitti_type": "Car", "truncated": 0.0, "occluded": 0}


def _document(info: Any) -> dict[str, Any]:
    return {
        "info": info,
        "images": [{"id": image} for image in BOXES],
        "annotations": [{"id": n, "image_id": n, "bbox": box, **OBJECT} for n, box in BOXES.items()],
        "categories": [{"id": 1, "name": "Car"}],
    }


# Right in image 1; in image 2 a wrong box that the score believes and the localization score does not.
FOUND = [
    {"image_id": 1, "category_id": 1, "bbox": BOXES[1], "score": 0.6, "localization_score": 0.9},
    {"image_id": 2, "category_id": 1, "bbox": [200, 200, 9, 60], "score": 0.8, "localization_score": 0.1},
]


@pytest.mark.parametrize("info", [{}, None, {"year": 2017}])
def test_coco_has_none_of_its_own(info: Any) -> None:
    assert format_metrics(_document(info), FOUND) == {}


@pytest.mark.parametrize(("name", "measure"), [("voc", voc_metrics), ("kitti", kitti_metrics)])
def test_a_format_is_measured_by_its_own(name: str, measure: Any) -> None:
    document = _document({FORMAT_KEY: name})
    assert format_metrics(document, FOUND) == measure(document, FOUND)


def test_only_the_chosen_images_count() -> None:
    document = _document({FORMAT_KEY: "voc"})
    assert format_metrics(document, FOUND, image_ids=[1]) == {"VOC07_AP50": 1.0, "VOC12_AP50": 1.0}
    assert format_metrics(document, FOUND, image_ids=[2]) == {"VOC07_AP50": 0.0, "VOC12_AP50": 0.0}


def test_another_score_may_order_the_detections() -> None:
    document = _document({FORMAT_KEY: "voc"})
    # Half of the objects are found: precision 1/2 up to recall 1/2 behind the wrong box, precision 1 before it.
    assert format_metrics(document, FOUND)["VOC12_AP50"] == pytest.approx(0.25)
    assert format_metrics(document, FOUND, rank_by="localization_score")["VOC12_AP50"] == pytest.approx(0.5)

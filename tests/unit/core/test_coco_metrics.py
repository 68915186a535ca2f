"""COCO metrics on real ground truth and on a case worked out by hand."""

import copy
import re
from typing import Any

import numpy as np
import pytest

from calibox_core.coco_metrics import coco_metrics, evaluate_coco, load_ground_truth, score_iou_correlations
from tests.support.data import dataset

KEYS = {"AP", "AP50", "AP60", "AP70", "AP75", "AP80", "AP90", "APs", "APm", "APl", "AR1", "AR10", "AR100"}


def annotations(*boxes: tuple[int, int, tuple[float, float, float, float]]) -> dict[str, Any]:
    """Two images, two classes, and objects of (image, class, x-y-width-height)."""
    return {
        "images": [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.png"} for i in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": list(b), "area": b[2] * b[3], "iscrowd": 0}
            for n, (i, c, b) in enumerate(boxes, 1)
        ],
    }


def detection(image: int, label: int, box: tuple[float, float, float, float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": label, "bbox": list(box), "score": score}


@pytest.mark.parametrize("name", ["bccd", "deeppcb", "coco_person", "coco80_mini"])
def test_ground_truth_as_detections_is_perfect_on_real_data(name: str) -> None:
    document = dataset(name).annotations("val")
    truth = [
        detection(a["image_id"], a["category_id"], a["bbox"], 1.0)
        for a in document["annotations"]
        if not a.get("iscrowd", 0)
    ]
    metrics, _ = coco_metrics(load_ground_truth(document), truth)
    assert set(metrics) == KEYS
    # Average of 101 precisions of 1; pycocotools adds an epsilon to each denominator.
    assert metrics["AP"] == metrics["AP90"] == pytest.approx(1.0, abs=1e-9)


# Class 1, IoU of the detections with the objects: 1, none, 0.64 (an 80 x 80 box in a 100 x 100 one).
# Ranked by score: hit (0.9), miss (0.8), hit at IoU 0.5 and 0.6 only (0.7).
HAND = annotations((1, 1, (0, 0, 10, 10)), (2, 1, (0, 0, 100, 100)))
FOUND = [
    detection(1, 1, (0, 0, 10, 10), 0.9),
    detection(1, 1, (50, 50, 10, 10), 0.8),
    detection(2, 1, (0, 0, 80, 80), 0.7),
]


def test_a_case_worked_out_by_hand() -> None:
    metrics, table = coco_metrics(load_ground_truth(HAND), FOUND)
    # Recall is read at 0, 0.01, ..., 1. Up to 0.5 (51 points) precision is 1; from 0.51 (50 points) it is 2/3.
    loose = (51 * 1 + 50 * 2 / 3) / 101
    strict = 51 / 101  # without the third detection nothing is found beyond a recall of 0.5
    expected = {"AP50": loose, "AP60": loose, "AP70": strict, "AP75": strict, "AP80": strict, "AP90": strict}
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    # IoU 0.64 counts at 0.5, 0.55 and 0.6 of the ten thresholds. Class 2 has no object and does not enter.
    assert metrics["AP"] == pytest.approx((3 * loose + 7 * strict) / 10)
    assert metrics["AR100"] == pytest.approx((3 * 1.0 + 7 * 0.5) / 10)
    # By area: 100 square pixels is small, 10,000 is large, and nothing is medium.
    assert metrics["APs"] == pytest.approx(1.0)
    assert metrics["APm"] is None
    assert "Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ]" in table


@pytest.mark.parametrize("iou", [0.52, 0.62, 0.72, 0.77, 0.82, 0.92])
def test_every_threshold_is_the_one_in_its_name(iou: float) -> None:
    found = [detection(1, 1, (0, 0, 100, 100 * iou), 0.9)]
    metrics, _ = coco_metrics(load_ground_truth(annotations((1, 1, (0, 0, 100, 100)))), found)
    thresholds = {key: int(key.removeprefix("AP")) / 100 for key in KEYS if re.fullmatch(r"AP\d+", key)}
    assert {key: metrics[key] for key in thresholds} == pytest.approx(
        {k: float(iou >= t) for k, t in thresholds.items()}
    )


def test_another_key_ranks() -> None:
    """By `trust` the miss comes first: precision at the first hit is 1/2, at the second 2/3, which covers both."""
    found = [{**d, "trust": trust} for d, trust in zip(FOUND, (0.5, 0.9, 0.4), strict=True)]
    metrics, _ = coco_metrics(load_ground_truth(HAND), found, rank_by="trust")
    assert metrics["AP50"] == pytest.approx(2 / 3)
    assert metrics["AP75"] == pytest.approx((51 * 1 / 2) / 101)


def test_only_the_images_asked_for_count() -> None:
    metrics, _ = coco_metrics(load_ground_truth(HAND), FOUND, image_ids=[2])
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP75"] == 0.0


def test_no_detections_score_nothing() -> None:
    metrics, table = coco_metrics(load_ground_truth(HAND), [])
    assert set(metrics) == KEYS
    assert metrics["AP"] == metrics["AP50"] == metrics["AR100"] == 0.0
    assert metrics["APm"] is None
    assert "= 0.000" in table


def test_without_objects_there_is_nothing_to_measure() -> None:
    metrics, _ = coco_metrics(load_ground_truth(annotations()), FOUND)
    assert set(metrics.values()) == {None}


def test_inputs_stay_as_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    document, found = copy.deepcopy(HAND), copy.deepcopy(FOUND)
    ground_truth = load_ground_truth(document)
    first = coco_metrics(ground_truth, found)
    assert coco_metrics(ground_truth, found) == first  # nor does one measurement change the next
    assert (document, found) == (HAND, FOUND)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("first", [0, 7])
def test_the_numbers_of_annotations_do_not_matter(first: int) -> None:
    """pycocotools itself takes an object with the id 0 for one that nobody found."""
    document = copy.deepcopy(HAND)
    for number, annotation in enumerate(document["annotations"], first):
        annotation["id"] = number
    assert coco_metrics(load_ground_truth(document), FOUND) == coco_metrics(load_ground_truth(HAND), FOUND)


def test_area_and_crowd_may_be_left_out() -> None:
    document = copy.deepcopy(HAND)
    for annotation in document["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    assert coco_metrics(load_ground_truth(document), FOUND) == coco_metrics(load_ground_truth(HAND), FOUND)


def test_a_crowd_is_no_object_and_what_lies_in_it_no_mistake() -> None:
    document = copy.deepcopy(HAND)
    document["annotations"].append(
        {"id": 3, "image_id": 1, "category_id": 1, "bbox": [40, 40, 60, 60], "area": 3600, "iscrowd": 1}
    )
    metrics, _ = coco_metrics(load_ground_truth(document), FOUND)
    assert metrics["AP50"] == pytest.approx(1.0)  # the miss at 50, 50 lies in the crowd


P = np.array([0.5, 0.6, 0.7, 0.04, 0.9])
Q = np.array([0.9, 0.6, 0.3, 0.10, 0.2])
SCORE = np.array([0.4, 0.4, 0.4, 0.10, 0.2])
IOU = np.array([0.6, 0.6, 0.9, 0.95, 0.5])  # the fourth has too small a p, the fifth too small an IoU


def test_correlations_by_hand() -> None:
    # Three enter. Deviations of p: -0.1, 0, 0.1; of IoU: -0.1, -0.1, 0.2. Covariance 0.03, variances 0.02 and 0.06.
    expected = 0.03 / (0.02 * 0.06) ** 0.5
    found = score_iou_correlations(P, Q, SCORE, IOU)
    assert found["pearson_classification"] == pytest.approx(expected)
    assert found["pearson_localization"] == pytest.approx(-expected)  # q falls as p rises: 2.4 - 3 p
    assert found["pearson_score"] is None  # a constant correlates with nothing
    assert found["pearson_n"] == 3


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_detections_have_no_correlation(count: int) -> None:
    found = score_iou_correlations(P[:count], Q[:count], SCORE[:count], IOU[:count])
    assert found == {
        "pearson_classification": None,
        "pearson_localization": None,
        "pearson_score": None,
        "pearson_n": count,
    }


def scattered(document: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Each object found several times or not at all, with equal scores among them, and boxes where nothing is."""
    rng = np.random.default_rng(seed)
    rows = []
    for entry in document["annotations"]:
        for _ in range(int(rng.integers(0, 4))):
            box = np.array(entry["bbox"]) + rng.normal(0, entry["bbox"][2] / 10, 4) * [1, 1, 0.5, 0.5]
            rows.append(
                {
                    "image_id": entry["image_id"],
                    "category_id": entry["category_id"],
                    "bbox": [*box[:2], *np.maximum(box[2:], 1)],
                    "score": round(float(rng.random()), 2),
                }
            )
    return rows


@pytest.mark.parametrize("name", ["bccd", "coco_person", pytest.param("coco80_mini", marks=pytest.mark.slow)])
def test_the_fast_evaluation_is_pycocotools_to_1e_9(name: str) -> None:
    document = dataset(name).annotations("val")
    rows = scattered(document, seed=3)
    ids = sorted(image["id"] for image in document["images"])
    for image_ids in (None, ids[1::2]):
        slow, fast = (
            evaluate_coco(load_ground_truth(document), rows, image_ids=image_ids, fast=fast) for fast in (False, True)
        )
        assert fast.metrics == pytest.approx(slow.metrics, abs=1e-9)
        assert fast.by_threshold == pytest.approx(slow.by_threshold, abs=1e-9)
        assert fast.by_class.keys() == slow.by_class.keys()
        for category, own in slow.by_class.items():
            assert fast.by_class[category] == pytest.approx(own, abs=1e-9)
        assert fast.table == slow.table
        assert 0.1 < (slow.metrics["AP"] or 0) < 0.9


@pytest.mark.parametrize("fast", [False, True])
def test_no_detection_and_no_object_of_a_class_are_told_apart(fast: bool) -> None:
    document = {
        "images": [{"id": 1, "width": 50, "height": 50}],
        "categories": [{"id": 3, "name": "there"}, {"id": 8, "name": "never"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20]}],
    }
    nothing = evaluate_coco(load_ground_truth(document), [], fast=fast)
    assert nothing.by_class[3]["AP"] == nothing.metrics["AP"] == 0
    assert set(nothing.by_class[8].values()) == {None}
    hit = {"image_id": 1, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.5}
    found = evaluate_coco(load_ground_truth(document), [hit], fast=fast)
    assert found.by_threshold == pytest.approx([1.0] * 10)
    assert found.by_class[3] == pytest.approx({"AP": 1, "AP50": 1, "AP75": 1, "AP90": 1, "AR100": 1})

"""What lies behind an AP: classes, LRP, thresholds chosen on one half, calibration on the other."""

from typing import Any

import numpy as np
import pytest

from calibox_client.evaluation.choices import RankBy
from calibox_client.evaluation.details import (
    MATCH_IOUS,
    from_threshold,
    measure_details,
    only_images,
    operating_thresholds,
    truth_of,
)
from calibox_client.evaluation.found import MOST_PER_CLASS, best_iou, best_rows, found_of
from calibox_core.coco_matching import FoundObjects, ObjectBoxes, match_split

OBJECT = [10.0, 10.0, 20.0, 20.0]
APART = [60.0, 60.0, 20.0, 20.0]
HALF_OFF = [10.0, 10.0, 20.0, 12.0]  # IoU 0.6 with OBJECT


def row(image: int, box: list[float], score: float, *, category: int = 5, p: float = 0.5, q: float = 0.5) -> Any:
    scores = {"score": score, "classification_score": p, "localization_score": q}
    return {"image_id": image, "category_id": category, "bbox": box, **scores}


def four_images() -> dict[str, Any]:
    """One object of the first of two classes in each of four images."""
    return {
        "images": [{"id": n} for n in (1, 2, 3, 4)],
        "categories": [{"id": 9, "name": "blue"}, {"id": 5, "name": "red"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 5, "bbox": OBJECT} for n in (1, 2, 3, 4)],
    }


def test_a_class_has_its_measures_and_a_class_without_objects_has_none() -> None:
    truth = truth_of(four_images(), [1, 2, 3, 4])
    rows = [row(1, OBJECT, 0.9), row(2, HALF_OFF, 0.8), row(3, APART, 0.7)]
    details = measure_details(truth, rows, {5: {"AP": 0.25}}, RankBy.SCORE)
    red, blue = details.classes
    assert (red["name"], red["objects"], red["detections"], red["AP"]) == ("red", 4, 3, 0.25)
    # Down to 0.8: (0 + 0.4 / 0.5 + 2 missed) / 4 = 0.7; down to 0.9: 3 / 4; to 0.7: (0.8 + 1 + 2) / 5 = 0.76.
    assert (red["oLRP"], red["threshold"]) == (pytest.approx(0.7, abs=1e-6), 0.8)
    assert red["oLRP_localization"] == pytest.approx(0.2, abs=1e-6)
    assert (red["oLRP_false_positive"], red["oLRP_false_negative"]) == (0, 0.5)
    assert (blue["name"], blue["objects"], blue["oLRP"], blue["threshold"]) == ("blue", 0, None, None)
    assert details.lrp["oLRP"] == pytest.approx(0.7, abs=1e-6)


def test_thresholds_are_chosen_on_every_other_image_and_errors_are_of_the_others() -> None:
    truth = truth_of(four_images(), [1, 2, 3, 4])
    # Images 1 and 3 choose 0.8: what is below is wrong. On 2 and 4 that keeps a right one (0.85) and a wrong (0.95).
    rows = [row(1, OBJECT, 0.9), row(3, OBJECT, 0.8), row(3, APART, 0.3), row(1, APART, 0.2)]
    rows += [row(2, OBJECT, 0.85), row(4, APART, 0.95), row(4, OBJECT, 0.5), row(2, APART, 0.4)]
    report = measure_details(truth, rows, {}, RankBy.SCORE).scores["score"]
    assert report.kept == 2
    assert report.errors["D_ECE"] == pytest.approx((0.15 + 0.95) / 2)
    assert report.errors["LaECE"] == report.errors["LaECE0"] == report.errors["LaACE0"] == report.errors["D_ECE"]
    assert report.errors["all_D_ECE"] == pytest.approx((0.15 + 0.95 + 0.5 + 0.4) / 4)
    assert [tuple(one) for one in report.reliability_iou] == [
        pytest.approx(expected) for expected in [(0.4, 0, 1), (0.5, 1, 1), (0.85, 1, 1), (0.95, 0, 1)]
    ]
    assert np.sum(report.score_iou_counts) == len(rows)
    assert report.score_iou_counts[18][19] == 1  # score 0.9, IoU 1


def test_nothing_found_is_measured_like_anything_else() -> None:
    details = measure_details(truth_of(four_images(), [1, 2]), [], {}, RankBy.SCORE)
    assert details.lrp["oLRP"] == 1
    assert set(details.scores["score"].errors.values()) == {None}
    assert np.sum(details.scores["score"].score_iou_counts) == 0
    assert details.correlations["pearson_n"] == 0


def test_a_part_of_the_images_is_what_matching_these_alone_gives() -> None:
    rng = np.random.default_rng(0)
    document = four_images()
    rows = [
        row(int(image), [*rng.uniform(0, 30, 2), *rng.uniform(10, 30, 2)], float(rng.random()), category=int(label))
        for image, label in zip(rng.integers(1, 5, 60), rng.choice([5, 9], 60), strict=True)
    ]
    truth = truth_of(document, [1, 2, 3, 4])
    matches = match_split(found_of(rows, truth.image_ids, [5, 9], rank_by="score"), truth.objects, 2)
    part = truth_of(document, [2, 4])
    alone = match_split(found_of(rows, part.image_ids, [5, 9], rank_by="score"), part.objects, 2)
    for one, other in zip(matches, alone, strict=True):
        chosen = only_images(one, np.array([False, True, False, True]))
        np.testing.assert_array_equal(chosen.hit_TN, other.hit_TN)
        np.testing.assert_array_equal(chosen.scores_N, other.scores_N)
        assert chosen.objects_I.sum() == other.objects_I.sum()
        assert (from_threshold(chosen, 0.5).scores_N >= 0.5).all()
        assert len(from_threshold(chosen, None).scores_N) == 0


def test_no_threshold_is_chosen_where_nothing_is_worth_keeping() -> None:
    truth = truth_of(four_images(), [1, 2, 3, 4])
    found = found_of([row(1, APART, 0.9)], truth.image_ids, truth.category_ids, rank_by="score")
    assert operating_thresholds(match_split(found, truth.objects, 2, np.array(MATCH_IOUS))) == [None, None]


def test_the_best_hundred_of_a_class_are_measured_and_strangers_are_left_out() -> None:
    many = [row(1, OBJECT, n / 1000) for n in range(150)]
    strangers = [row(77, OBJECT, 1.0), row(1, OBJECT, 1.0, category=6)]
    first, second = best_rows([*many, row(1, APART, 0.0001, category=9), *strangers], [1, 2], [5, 9], rank_by="score")
    assert [one["score"] for one in first[:MOST_PER_CLASS]] == [n / 1000 for n in range(149, 49, -1)]
    assert (len(first), first[-1]["category_id"], second) == (MOST_PER_CLASS + 1, 9, [])


def test_the_best_iou_is_with_an_object_of_the_class_that_is_no_crowd() -> None:
    boxes = np.array([OBJECT, HALF_OFF, APART])
    found = FoundObjects(boxes, np.array([0, 0, 1]), np.array([0.9, 0.8, 0.7]))
    objects = ObjectBoxes(np.array([OBJECT, APART, APART]), np.array([0, 0, 1]), np.array([False, False, True]))
    assert best_iou(found, objects).tolist() == pytest.approx([1.0, 0.6, 0.0])

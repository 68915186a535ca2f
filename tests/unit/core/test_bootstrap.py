"""Matching and AP of resampled images against pycocotools on data sets that hold an image as often as it was drawn."""

import contextlib
import io
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from calibox_core.bootstrap import average_precision, recall, resampled, whole
from calibox_core.coco_matching import FoundObjects, ObjectBoxes, annotated_objects, match_image, match_split

IMAGES, CLASSES = 10, 3


def found_of(boxes: Any, labels: Any, scores: Any) -> FoundObjects:
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)[order]
    labels = np.asarray(labels, np.int64)[order]
    scores = np.asarray(scores, np.float64)[order]
    return FoundObjects(boxes, labels, scores)


def drawn_scene(seed: int) -> tuple[dict[str, Any], list[FoundObjects]]:
    """Objects, some of them crowds and one class absent from most images, and detections that scatter around them."""
    rng = np.random.default_rng(seed)
    annotations, found = [], []
    for image in range(IMAGES):
        boxes, labels, scores = [], [], []
        for _ in range(int(rng.integers(0, 6))):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
            label = int(rng.integers(CLASSES)) if image < 2 else int(rng.integers(CLASSES - 1))
            crowd = int(rng.random() < 0.2)
            annotations.append({"image_id": image + 7, "category_id": 10 * label + 1, "bbox": box, "iscrowd": crowd})
            for _ in range(int(rng.integers(0, 4))):
                boxes.append(np.array(box) + rng.normal(0, 3, 4) * [1, 1, 0.5, 0.5])
                labels.append(label)
                scores.append(rng.random())
        for _ in range(2):
            boxes.append([*rng.uniform(0, 60, 2), 15, 15])
            labels.append(int(rng.integers(CLASSES)))
            scores.append(rng.random())
        found.append(found_of(boxes, labels, scores))
    document = {
        "images": [{"id": image + 7} for image in range(IMAGES)],
        "categories": [{"id": 10 * label + 1} for label in range(CLASSES)],
        "annotations": annotations,
    }
    return document, found


def official(document: dict[str, Any], found: list[FoundObjects], times: list[int]) -> tuple[np.ndarray, float]:
    """Pycocotools' AP at the ten thresholds and recall at 0.9, with every image written as often as it was drawn."""
    images, annotations, results = [], [], []
    for position, count in enumerate(times):
        for _ in range(count):
            number = len(images) + 1
            images.append({"id": number})
            own = [a for a in document["annotations"] if a["image_id"] == position + 7]
            for a in own:
                area = a["bbox"][2] * a["bbox"][3]
                annotations.append({**a, "id": len(annotations) + 1, "image_id": number, "area": area})
            one = found[position]
            results += [
                {"image_id": number, "category_id": 10 * int(label) + 1, "bbox": list(box), "score": float(score)}
                for box, label, score in zip(one.boxes_N4, one.labels_N, one.scores_N, strict=True)
            ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**document, "images": images, "annotations": annotations, "info": {}}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    found_recall = evaluation.eval["recall"][8, :, 0, -1]
    by_threshold = [row[row > -1].mean() for row in precision]
    return np.array(by_threshold), float(found_recall[found_recall > -1].mean())


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_of_a_resampling_is_that_of_pycocotools_on_it(seed: int) -> None:
    document, found = drawn_scene(seed)
    matches = match_split(found, annotated_objects(document, [1, 11, 21]), CLASSES)
    weights = np.concatenate([whole(IMAGES), resampled(IMAGES, 5, seed=seed)])
    ours = average_precision(matches, weights)
    for row, times in zip(ours, weights, strict=True):
        theirs, _ = official(document, found, times.astype(int).tolist())
        np.testing.assert_allclose(row, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_recall_is_pycocotools_own(seed: int) -> None:
    document, found = drawn_scene(seed)
    matches = match_split(found, annotated_objects(document, [1, 11, 21]), CLASSES)
    weights = resampled(IMAGES, 1, seed=seed)[0]
    _, theirs = official(document, found, weights.astype(int).tolist())
    assert recall(matches, weights, 8) == pytest.approx(theirs, abs=1e-12)


def objects_of(boxes: Any, crowd: Any = None) -> ObjectBoxes:
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    flags = np.zeros(len(boxes), np.bool_) if crowd is None else np.asarray(crowd, np.bool_)
    return ObjectBoxes(boxes, np.zeros(len(boxes), np.int64), flags)


def test_average_precision_worked_by_hand() -> None:
    # Hit, false alarm, hit: precision 1 up to recall 0.5 (51 of the 101 points), then 2/3 (50 points).
    objects = objects_of([[0, 0, 10, 10], [50, 50, 10, 10]])
    found = found_of([[0, 0, 10, 10], [20, 20, 5, 5], [50, 50, 10, 10]], [0, 0, 0], [0.9, 0.8, 0.7])
    once = average_precision(match_split([found], [objects], 1), whole(1))
    np.testing.assert_allclose(once, (51 + 50 * 2 / 3) / 101)


def test_a_class_without_an_object_is_left_out_and_none_at_all_is_nan() -> None:
    objects = objects_of([[0, 0, 10, 10]])
    matches = match_split([found_of([[0, 0, 10, 10]], [0], [0.9]), found_of([], [], [])], [objects, objects_of([])], 2)
    drawn = average_precision(matches, np.array([[1, 1], [0, 2]], np.float32))
    np.testing.assert_allclose(drawn[0], 1.0)
    assert np.isnan(drawn[1]).all()


def test_a_detection_in_a_crowd_region_is_neither_hit_nor_false_alarm() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [1.0, 1, 8, 8], [40.0, 40, 5, 5]])
    hit, counts, iou = match_image(boxes, np.array([[0.0, 0, 10, 10], [0, 0, 30, 30]]), np.array([False, True]))
    assert hit[0].tolist() == [True, False, False]
    assert counts[0].tolist() == [True, False, True]
    assert iou[0].tolist() == [1.0, 0.0, 0.0]


def test_of_equal_overlaps_the_last_object_is_taken() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [0.0, 0, 10, 10], [0.0, 0, 10, 10]])
    twice = np.array([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    hit, _, _ = match_image(boxes, twice, np.zeros(2, np.bool_))
    assert hit.tolist() == [[True, True, False]] * 10


def test_shorter_lists_of_draws_are_the_first_of_longer_ones() -> None:
    np.testing.assert_array_equal(resampled(20, 3), resampled(20, 8)[:3])
    assert resampled(20, 8).sum(axis=1).tolist() == [20] * 8

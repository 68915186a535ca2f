"""Before and after: the comparison of rankings on scored boxes."""

from typing import Any

import numpy as np
import pytest

from calibox_core.boxes import pairwise_iou, xyxy_to_xywh
from calibox_core.coco_metrics import coco_metrics, load_ground_truth
from calibox_core.dataset import calibration_and_test_ids
from calibox_core.letterbox import Letterbox
from calibox_core.manifest import ClassInfo
from calibox_core.nms import NmsAttributes
from calibox_export.attach.measure import BASE, Way, fusions, image_found, measure
from calibox_export.attach.report import markdown
from calibox_export.attach.scoring import ScoredImage, rescored
from calibox_training.data.coco import ImageRecord

CLASSES = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))
ATTRIBUTES = NmsAttributes(candidate_floor=0.05)
SIDE = 100


def scored(image_id: int, rng: np.random.Generator) -> ScoredImage:
    """Three objects with five displaced boxes each; p knows nothing, q is the IoU, refinement goes all the way."""
    low = np.array([[5, 5], [45, 5], [5, 55]]) + rng.integers(0, 10, (3, 2))
    objects = np.concatenate([low, low + 30], axis=1).astype(np.float32)
    labels = rng.integers(0, 2, 3)
    of = np.repeat(np.arange(3), 5)
    boxes = (objects[of] + rng.normal(0, 3, (15, 4))).clip(0, SIDE).astype(np.float32)
    iou = pairwise_iou(boxes, objects)[np.arange(15), of]
    return ScoredImage(
        record=ImageRecord(image_id, f"{image_id}.png", SIDE, SIDE, objects, labels, np.zeros(3, np.bool_)),
        letterbox=Letterbox.fit(width=SIDE, height=SIDE, input_width=SIDE, input_height=SIDE),
        boxes_N4=boxes,
        labels_N=labels[of],
        p_N=rng.uniform(0.3, 0.9, 15).astype(np.float32),
        q_N=iou.astype(np.float32),
        refined_N4=objects[of],
        refined_q_N=np.ones(15, np.float32),
    )


@pytest.fixture(scope="module")
def images() -> list[ScoredImage]:
    rng = np.random.default_rng(0)
    return [scored(image_id, rng) for image_id in range(1, 25)]


def annotations(images: list[ScoredImage]) -> dict[str, Any]:
    rows = [
        {"image_id": one.record.image_id, "category_id": CLASSES[label].category_id, "bbox": box.tolist(), "iscrowd": 0}
        for one in images
        for label, box in zip(one.record.labels, xyxy_to_xywh(one.record.boxes), strict=True)
    ]
    return {
        "images": [
            {"id": one.record.image_id, "file_name": one.record.file_name, "width": SIDE, "height": SIDE}
            for one in images
        ],
        "annotations": [{**row, "id": number, "area": 900.0} for number, row in enumerate(rows, 1)],
        "categories": [{"id": c.category_id, "name": c.name} for c in CLASSES],
    }


def pycocotools_says(images: list[ScoredImage], way: Way) -> float:
    """AP on the test half."""
    rows = []
    for one in images:
        found = image_found(one, way, ATTRIBUTES, iou_threshold=0.5)
        for box, label, score in zip(found.boxes_N4, found.labels_N, found.scores_N, strict=True):
            category = CLASSES[int(label)].category_id
            rows.append(
                {"image_id": one.record.image_id, "category_id": category, "bbox": box.tolist(), "score": float(score)}
            )
    _, test = calibration_and_test_ids([one.record.image_id for one in images])
    return coco_metrics(load_ground_truth(annotations(images)), rows, image_ids=test)[0]["AP"] or 0.0


def test_a_score_that_knows_the_iou_is_chosen_and_gains(images: list[ScoredImage]) -> None:
    outcome = measure(images, annotations(images), CLASSES, ATTRIBUTES, iou_threshold=0.5, draws=50)
    lines = {line.name: line for line in outcome.lines}
    assert (outcome.calibration_images, outcome.test_images, outcome.pairs) == (12, 12, 180)
    assert outcome.pearson_localization == pytest.approx(1.0)
    assert outcome.fusion != fusions()[BASE]
    assert outcome.refine
    chosen = next(line for name, line in lines.items() if name.startswith("chosen: ") and "refined" not in name)
    assert chosen.delta["AP"][1] > 0  # the whole interval
    assert lines[BASE].delta["AP"] == (0, 0, 0)
    assert (lines[f"{BASE}, refined"].metrics["AP"] or 0) > 0.99  # every kept box is an object
    for name in (BASE, "product", "localization"):
        assert lines[name].metrics["AP"] == pytest.approx(pycocotools_says(images, Way(fusions()[name])), abs=1e-6)
    page = markdown(outcome, ["detector: `colours.onnx`"])
    assert "12 images, the test half of the validation split" in page
    assert page.count("\n| ") == len(outcome.lines) + 2


def test_a_score_that_knows_nothing_is_not_preferred(images: list[ScoredImage]) -> None:
    """With q the same for all, every fusion with a part of p ranks alike, and the first of them is taken."""
    blind = [
        ScoredImage(**{name: getattr(one, name) for name in one.__slots__} | {"q_N": np.full(15, 0.5, np.float32)})
        for one in images
    ]
    outcome = measure(blind, annotations(blind), CLASSES, ATTRIBUTES, iou_threshold=0.5, draws=5)
    assert outcome.fusion == fusions()[BASE]
    assert outcome.pearson_localization is None


def test_rescored_results_hold_three_scores(images: list[ScoredImage]) -> None:
    exponents = fusions()["product"].exponents()
    rows = rescored(images[:1], CLASSES, exponents, refined=False)
    assert len(rows) == 15
    for row, p, q in zip(rows, images[0].p_N, images[0].q_N, strict=True):
        assert row["classification_score"] == pytest.approx(float(p))
        assert row["localization_score"] == pytest.approx(float(q))
        assert row["score"] == pytest.approx(float(p * q), rel=1e-5)
    moved = rescored(images[:1], CLASSES, exponents, refined=True)
    assert moved[0]["bbox"] == xyxy_to_xywh(images[0].refined_N4)[0].tolist()
    assert rescored([], CLASSES, exponents, refined=False) == []

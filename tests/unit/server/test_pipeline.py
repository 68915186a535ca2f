"""From the graph's rows to a request's answer, and the slots on the way."""

import numpy as np
import orjson
import pytest

from calibox_core.fusion import Exponents
from calibox_core.letterbox import Letterbox
from calibox_core.score_map import ScoreMap
from calibox_server.detections import finish
from calibox_server.detections_json import DetectionsWriter
from calibox_server.engine import EngineOutput
from calibox_server.engine_runner import Work, stack, unpadded
from calibox_server.parameters import Parameters
from calibox_server.server_timing import server_timing
from calibox_server.slots import SlotPool
from tests.support.manifests import small_manifest

MANIFEST = small_manifest()
LETTERBOX = Letterbox.fit(width=256, height=128, input_width=128, input_height=96)  # scale 0.5, 16 rows above


def parameters(**changes: object) -> Parameters:
    fields = {
        "exponents": Exponents(1, 0.5, 0.25),
        "score_threshold": 0.1,
        "iou_threshold": 0.6,
        "max_detections": 10,
        "classes": None,
        "refine_steps": (0,),
        "timeout_ms": 1000.0,
    }
    return Parameters(**(fields | changes))  # type: ignore[arg-type]


def rows(labels: list[int]) -> EngineOutput:
    n = len(labels)
    score = np.linspace(0.9, 0.2, n, dtype=np.float32)
    box = np.array([[10, 20, 30, 40]], np.float32) + np.arange(n, dtype=np.float32)[:, None]
    return EngineOutput(np.array([n], np.int32), box, np.array(labels, np.int32), score, score**2, score**3)


def test_boxes_are_in_pixels_of_the_image_and_clipped_to_it() -> None:
    out = rows([0])
    out.boxes[0] = [-5, 20, 200, 300]
    found = finish(out, LETTERBOX, parameters(), MANIFEST)
    assert (found.width, found.height) == (256, 128)
    assert found.boxes.tolist() == [[0, 8, 256, 128]]


def test_classes_are_chosen_before_the_best_are_counted() -> None:
    found = finish(rows([0, 1, 0, 1, 1]), LETTERBOX, parameters(classes=frozenset({1}), max_detections=2), MANIFEST)
    assert found.labels.tolist() == [1, 1]
    assert found.scores.tolist() == rows([0] * 5).scores[[1, 3]].tolist()


def test_each_class_has_its_threshold_and_the_best_of_what_is_left_are_counted() -> None:
    out = rows([0, 1, 0, 1, 1])
    out.scores[:] = [0.75, 0.5, 0.5, 0.25, 0.125]
    thresholds = (0.625, 0.125)  # a score that equals its threshold stays
    found = finish(out, LETTERBOX, parameters(class_thresholds=thresholds), MANIFEST)
    assert list(zip(found.labels.tolist(), found.scores.tolist(), strict=True)) == [
        (0, 0.75),
        (1, 0.5),
        (1, 0.25),
        (1, 0.125),
    ]
    best = finish(out, LETTERBOX, parameters(class_thresholds=thresholds, classes={1}, max_detections=2), MANIFEST)
    assert best.scores.tolist() == [0.5, 0.25]


def test_the_best_by_ranking_stay() -> None:
    found = finish(rows([0, 1, 0]), LETTERBOX, parameters(max_detections=2), MANIFEST)
    assert found.labels.tolist() == [0, 1]


def test_the_reported_score_goes_through_the_score_map_and_the_others_do_not() -> None:
    mapped = small_manifest(score_map=ScoreMap(raw=(0, 1), mapped=(0, 0.5)))
    plain, halved = (finish(rows([0, 1]), LETTERBOX, parameters(), m) for m in (MANIFEST, mapped))
    assert halved.scores == pytest.approx(plain.scores / 2)
    assert halved.classification_scores.tolist() == plain.classification_scores.tolist()
    assert halved.localization_scores.tolist() == plain.localization_scores.tolist()


def test_no_detections_pass_through_the_same_lines() -> None:
    found = finish(rows([]), LETTERBOX, parameters(classes=frozenset({1})), MANIFEST)
    answer = orjson.loads(DetectionsWriter(MANIFEST).write([found], {"total": 1.0}))
    assert answer["results"] == [{"width": 256, "height": 128, "detections": []}]


def test_padding_is_cut_off_each_image_of_a_batch() -> None:
    out = EngineOutput(np.array([2, 0], np.int32), *(np.zeros((2, 5, *tail)) for tail in ((4,), (), (), (), ())))
    assert [unpadded(out, i).boxes.shape for i in range(2)] == [(2, 4), (0, 4)]
    assert [unpadded(out, i).scores.shape for i in range(2)] == [(2,), (0,)]


def test_a_single_image_is_not_copied_and_a_batch_keeps_each_ones_parameters() -> None:
    slots = [np.full((4, 6, 3), i, np.uint8) for i in range(3)]
    work = [Work(slot, parameters(score_threshold=i / 10), 2 * i, 0.0) for i, slot in enumerate(slots)]
    assert np.shares_memory(stack(work[:1]).images, slots[0])
    batch = stack(work)
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert batch.score_threshold.tolist() == pytest.approx([0, 0.1, 0.2])
    assert batch.fusion.tolist() == [[1, 0.5, 0.25]] * 3
    assert batch.iou_threshold.tolist() == pytest.approx([0.6] * 3)
    assert batch.refine_steps.tolist() == [0, 2, 4]
    assert batch.refine_steps.dtype == np.int32


def test_an_answer_carries_names_ids_three_scores_and_float32_digits() -> None:
    out = rows([1])
    found = finish(out, LETTERBOX, parameters(), MANIFEST)
    text = DetectionsWriter(MANIFEST).write([found], {"decode": 1.25, "total": 3.5})
    answer = orjson.loads(text)
    (detection,) = answer["results"][0]["detections"]
    assert (answer["model"], answer["version"], answer["timing"]) == ("small", "1", {"decode": 1.25, "total": 3.5})
    assert detection["box"] == [20, 8, 60, 48]
    assert (detection["label"], detection["label_id"]) == ("dog", 18)
    assert np.float32(detection["score"]) == out.scores[0]
    assert np.float32(detection["classification_score"]) == out.classification_scores[0]
    assert np.float32(detection["localization_score"]) == out.localization_scores[0]
    assert b'"classification_score":0.9,' in text


def test_server_timing_is_a_header_that_browsers_read() -> None:
    assert server_timing({"decode": 1.25, "total": 3.5}) == "decode;dur=1.25, total;dur=3.5"


def test_slots_are_used_again_and_only_so_many_are_kept() -> None:
    pool = SlotPool(height=4, width=6, keep=2)
    slots = [pool.take() for _ in range(3)]
    assert all(slot.shape == (4, 6, 3) and slot.dtype == np.uint8 for slot in slots)
    for slot in slots:
        pool.give(slot)
    assert pool.take() is slots[2]
    assert pool.take() is slots[1]
    assert all(pool.take() is not slot for slot in slots)

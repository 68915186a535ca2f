"""Rankings redone from stored outputs: which anchors, which controls, and how well scores say the IoU."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.fusion import Fusion, FusionName
from calibox_core.letterbox import Letterbox
from calibox_core.nms import OutScore, calibrated_nms
from calibox_training.data.coco import ImageRecord
from calibox_training.reproduce.calibration import correlations, laece0, reliability
from calibox_training.reproduce.rankings import (
    ImageFound,
    best_per_level,
    own_ranking,
    quality,
    ranked,
    rankings,
)
from calibox_training.reproduce.raw import RawImage, RawSplit
from tests.support.recipes import tiny_recipe


def raw_image(seed: int = 0, anchors: int = 60, classes: int = 2) -> RawImage:
    """Boxes around two objects of an image that fills its input; a third of the anchors are below the floor."""
    rng = np.random.default_rng(seed)
    objects = np.array([[10, 10, 50, 50], [40, 20, 100, 80]], np.float32)
    p = rng.random((anchors, classes)).astype(np.float32)
    p[rng.random(anchors) < 1 / 3] *= 1e-4
    boxes = objects[rng.integers(0, 2, anchors)] + rng.normal(0, 6, (anchors, 4)).astype(np.float32)
    boxes = np.sort(boxes.reshape(anchors, 2, 2), axis=1).reshape(anchors, 4).clip(0, 96)
    index = np.flatnonzero(p.max(axis=1) > 0.001).astype(np.int32)
    record = ImageRecord(3, "3.png", 128, 96, objects, np.array([0, 1]), np.zeros(2, np.bool_))
    return RawImage(
        record=record,
        best_p_A=p.max(axis=1),
        q_A=rng.random(anchors).astype(np.float32),
        index_K=index,
        p_KC=p[index],
        boxes_K4=boxes[index],
        letterbox=Letterbox.fit(width=128, height=96, input_width=128, input_height=96),
    )


def split_of(image: RawImage, *, top_k: int = 20) -> RawSplit:
    recipe = tiny_recipe(per_level_top_k=top_k, nms__pre_nms_top_k=25)
    return RawSplit(counts=(40, 20), images=[image], recipe=recipe)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 12), st.integers(0, 30))
def test_a_level_passes_on_its_best_anchors_and_the_first_of_equals(keys: list[int], top_k: int, cut: int) -> None:
    counts = (min(cut, len(keys)), len(keys) - min(cut, len(keys)))
    wanted, start = np.zeros(len(keys), bool), 0
    for count in counts:
        by_key = sorted(range(start, start + count), key=lambda a: (-keys[a], a))
        wanted[by_key[:top_k]] = True
        start += count
    found = best_per_level(np.array(keys, np.float32), counts, top_k=top_k)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("name", ["classification", "product", "geometric 0.3", "LC", "LC+CS"])
def test_a_ranking_is_the_operator_on_the_anchors_that_the_levels_pass_on(name: str) -> None:
    image = raw_image()
    split, ranking = split_of(image), rankings()[name]
    a, b, _ = ranking.exponents
    key = np.maximum(image.best_p_A, 1e-37).astype(np.float64) ** a * image.q_A.astype(np.float64) ** b
    passed = {int(i) for low, high in ((0, 40), (40, 60)) for i in low + np.argsort(-key[low:high])[:20]}
    rows = [row for row, anchor in enumerate(image.index_K) if int(anchor) in passed]
    wanted = calibrated_nms(
        image.boxes_K4[rows],
        image.p_KC[rows],
        image.q_A[image.index_K[rows]][:, None],
        exponents=ranking.exponents,
        score_threshold=0,
        iou_threshold=split.recipe.thresholds.iou,
        attributes=split.recipe.nms.model_copy(update={"out_score": ranking.out_score}),
    )
    (found,) = ranked(split, ranking)
    order = np.argsort(-wanted.scores, kind="stable")
    np.testing.assert_array_equal(found.scores_N, wanted.scores[order])
    np.testing.assert_array_equal(found.labels_N, wanted.labels[order])
    np.testing.assert_allclose(found.boxes_N4[:, :2], wanted.boxes[order][:, :2], atol=1e-4)
    assert len(found.scores_N) > 3


def test_the_shuffled_control_exchanges_q_among_candidates_and_leaves_the_rest() -> None:
    image = raw_image()
    shuffled, shown = quality(image, "shuffled"), np.isin(np.arange(len(image.q_A)), image.index_K)
    np.testing.assert_array_equal(shuffled[~shown], image.q_A[~shown])
    np.testing.assert_array_equal(np.sort(shuffled[shown]), np.sort(image.q_A[shown]))
    assert (shuffled[shown] != image.q_A[shown]).any()
    np.testing.assert_array_equal(shuffled, quality(image, "shuffled"))


def test_the_oracle_is_the_iou_with_the_best_object_of_any_class() -> None:
    image = raw_image()
    oracle = quality(image, "oracle")
    for row, anchor in enumerate(image.index_K):
        x1, y1, x2, y2 = (float(v) for v in image.boxes_K4[row])
        best = 0.0
        for u1, v1, u2, v2 in image.record.boxes.tolist():
            common = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
            union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
            best = max(best, common / union)
        assert oracle[anchor] == pytest.approx(best, abs=1e-5)  # float32
    others = np.setdiff1d(np.arange(len(oracle)), image.index_K)
    assert (oracle[others] == 0).all()


def test_a_recipe_s_own_ranking_is_found_by_what_it_does() -> None:
    half = Fusion(name=FusionName.GEOMETRIC, alpha=0.5)
    assert own_ranking(half, OutScore.KEY) == "geometric 0.5"
    assert own_ranking(Fusion(name=FusionName.PRODUCT), OutScore.CLASSIFICATION_CLUSTERED) == "LC+CS"
    assert own_ranking(Fusion(name=FusionName.CLASSIFICATION), OutScore.KEY) == "classification"


def scored(scores: list[float], iou: list[float], labels: list[int]) -> ImageFound:
    samples = np.zeros((0, 4), np.float32)
    boxes = np.zeros((len(scores), 4))
    return ImageFound(boxes, np.array(labels), np.array(scores), np.array(iou, np.float32), samples)


def test_laece0_worked_by_hand() -> None:
    # Class 0, two objects: its best two fall into bins of their own, |0.9 - 0.5| and |0.5 - 0.7| at one half each;
    # the third is not counted. Class 1, one object: |0.3 - 0.3| = 0. Mean of 0.3 and 0.
    found = [scored([0.9, 0.1], [0.5, 0.0], [0, 0]), scored([0.5, 0.3], [0.7, 0.3], [0, 1])]
    assert laece0(found, [2, 1]) == pytest.approx(0.15, abs=1e-7)
    # In one bin gaps of opposite sign cancel: +0.10 and -0.05, at one half each.
    assert laece0([scored([0.93, 0.95], [0.83, 1.0], [0, 0])], [2]) == pytest.approx(0.025, abs=1e-7)
    assert laece0([scored([], [], [])], [2]) is None


def test_reliability_averages_score_and_iou_in_tenths() -> None:
    found = [scored([0.95, 1.0, 0.31], [0.8, 0.6, 0.2], [0, 0, 0])]
    assert reliability(found) == [(0.31, 0.2, 1), (0.975, 0.7, 2)]


def test_correlations_take_candidates_above_both_limits() -> None:
    rows = [[0.9, 0.2, 0.4, 0.9], [0.8, 0.9, 0.5, 0.6], [0.7, 0.1, 0.6, 0.7], [0.04, 1, 1, 1], [1, 0, 0, 0.5]]
    found = [ImageFound(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), np.zeros(0), np.array(rows, np.float32))]
    measured = correlations(found)
    assert measured["candidates"] == 3
    # Ranks of p 3 2 1, of the score 1 2 3, of the IoU 3 1 2: correlation of ranks 0.5 and -0.5.
    assert measured["spearman_classification"] == pytest.approx(0.5)
    assert measured["spearman_score"] == pytest.approx(-0.5)
    assert measured["pearson_score"] == pytest.approx(np.corrcoef([0.4, 0.5, 0.6], [0.9, 0.6, 0.7])[0, 1], abs=1e-6)

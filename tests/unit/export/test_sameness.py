"""What counts as the same answer: a near tie may go either way, and nothing else may."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.fusion import Exponents
from calibox_core.nms import Detections, NmsAttributes, OutScore, calibrated_nms, select_candidates
from calibox_export.errors import ExportError
from calibox_export.level_cut import LevelCut, level_cuts, passed_anchors
from calibox_export.sameness import (
    MOST_CANDIDATES,
    TWO_FRAMEWORKS,
    Outcome,
    Rows,
    Sure,
    compare_rows,
    sure_candidates,
    sure_detections,
)
from tests.support.nms_images import NmsImage, random_boxes

PRODUCT = Exponents(1, 1, 0)


def image(boxes: Any, p: Any, q: Any, *, score_threshold: float = 0.0, iou_threshold: float = 0.5) -> NmsImage:
    return NmsImage(
        np.array(boxes, np.float32),
        np.array(p, np.float32),
        np.array(q, np.float32),
        PRODUCT,
        score_threshold,
        iou_threshold,
    )


def three_apart() -> NmsImage:
    """Three boxes of two classes that do not touch."""
    return image(
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [[0.9, 0], [0, 0.6], [0.3, 0]], [[0.8], [0.7], [0.9]]
    )


def detect(case: NmsImage, attributes: NmsAttributes) -> Detections:
    return calibrated_nms(
        case.boxes,
        case.p,
        case.q,
        exponents=case.exponents,
        score_threshold=case.score_threshold,
        iou_threshold=case.iou_threshold,
        attributes=attributes,
    )


def answer(case: NmsImage, attributes: NmsAttributes) -> Rows:
    found = detect(case, attributes)
    return Rows(found.boxes, found.labels, found.classification_scores, found.localization_scores, scores=found.scores)


def sure(case: NmsImage, attributes: NmsAttributes, cuts: Sequence[LevelCut] = ()) -> tuple[Sure, Sure]:
    candidates = sure_candidates(
        case.boxes,
        case.p,
        case.q,
        exponents=case.exponents,
        attributes=attributes,
        tolerance=TWO_FRAMEWORKS,
        cuts=cuts,
    )
    return candidates, sure_detections(
        candidates,
        iou_threshold=case.iou_threshold,
        score_threshold=case.score_threshold,
        attributes=attributes,
        tolerance=TWO_FRAMEWORKS,
    )


def compare(ours: NmsImage, theirs: Rows, attributes: NmsAttributes | None = None) -> Outcome:
    """Holds ``theirs`` against the answer for ``ours``."""
    attributes = attributes or NmsAttributes()
    return compare_rows(theirs, sure(ours, attributes)[1], detect(ours, attributes).anchor_class, TWO_FRAMEWORKS)


def both_ways(first: NmsImage, second: NmsImage, attributes: NmsAttributes | None = None) -> Outcome:
    """Each side's answer held against the other's."""
    attributes = attributes or NmsAttributes()
    return compare(first, answer(second, attributes), attributes) + compare(
        second, answer(first, attributes), attributes
    )


def test_equal_answers_are_the_same() -> None:
    case = three_apart()
    assert compare(case, answer(case, NmsAttributes())) == Outcome(compared=3)


def test_rounding_is_measured_and_tolerated() -> None:
    case = three_apart()
    found = answer(case, NmsAttributes())
    outcome = compare(case, found._replace(boxes=found.boxes + np.float32(0.004)))
    assert (outcome.compared, outcome.different) == (3, 0)
    assert outcome.box_gap == pytest.approx(0.004, abs=1e-5)


@pytest.mark.parametrize("field", ["boxes", "labels", "classification_scores", "localization_scores", "scores"])
def test_one_value_beyond_tolerance_is_a_difference(field: str) -> None:
    case = three_apart()
    found = answer(case, NmsAttributes())
    step = {"boxes": 0.02, "labels": 1}.get(field, 2e-4)
    changed = getattr(found, field).copy()
    changed[1] += step
    outcome = compare(case, found._replace(**{field: changed}))
    assert outcome.compared == 2
    assert outcome.different == 2  # theirs has no partner, and ours is missing
    assert max(outcome.box_gap / 0.02, outcome.score_gap / 2e-4) == pytest.approx(1, rel=0.1) or field == "labels"


def test_a_nan_is_a_difference() -> None:
    case = three_apart()
    found = answer(case, NmsAttributes())
    assert compare(case, found._replace(scores=np.array([0.72, np.nan, 0.27], np.float32))).different == 2


def test_missing_extra_and_repeated_rows_are_differences() -> None:
    case = three_apart()
    found = answer(case, NmsAttributes())
    for rows, different in (([0, 1], 1), ([], 3), ([0, 1, 2, 2], 1)):
        chosen = Rows(*(values[rows] for values in found))
        assert compare(case, chosen).different == different, rows
    nothing = replace(case, p=np.zeros_like(case.p))
    assert compare(nothing, found).different == 3


def test_rows_out_of_order_are_a_difference() -> None:
    case = three_apart()
    turned = Rows(*(values[[1, 0, 2]] for values in answer(case, NmsAttributes())))
    assert compare(case, turned).different == 1


@pytest.mark.parametrize(("gap", "excused"), [(1e-5, True), (1e-2, False)])
def test_of_two_overlapping_boxes_either_wins_when_their_keys_are_nearly_equal(gap: float, excused: bool) -> None:
    boxes, q = [[0, 0, 10, 10], [1, 0, 11, 10]], [[1], [1]]
    first = image(boxes, [[0.5], [0.5 - gap / 4]], q)
    second = image(boxes, [[0.5 - gap / 4], [0.5]], q)
    outcome = both_ways(first, second)
    assert (outcome.excused, outcome.different) == ((4, 0) if excused else (0, outcome.different))
    assert (outcome.different == 0) is excused


@pytest.mark.parametrize(("shift", "excused"), [(1e-4, True), (0.005, False)])
def test_an_overlap_at_the_threshold_may_or_may_not_suppress(shift: float, excused: bool) -> None:
    """Of two boxes of 10 x 10 that lie 10/3 apart the IoU is exactly 1/2."""
    p, q = [[0.9], [0.5]], [[1], [1]]
    near, far = ([[0, 0, 10, 10], [10 / 3 + move, 0, 40 / 3 + move, 10]] for move in (-shift, shift))
    outcome = both_ways(image(near, p, q), image(far, p, q))
    assert (outcome.different == 0) is excused
    assert outcome.excused == (2 if excused else 0)


def test_what_a_doubtful_box_would_remove_is_doubtful_too() -> None:
    """First and second are nearly equal and overlap; only the second overlaps the third."""
    boxes, q = [[0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]], [[1], [1], [1]]
    first = image(boxes, [[0.8], [0.79999], [0.3]], q)
    second = image(boxes, [[0.79999], [0.8], [0.3]], q)
    outcome = both_ways(first, second)
    assert outcome.different == 0
    assert outcome.excused == 6


def test_near_ties_at_every_cut_are_excused() -> None:
    boxes, q = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)], [[1]] * 4
    p = [[0.8], [0.6], [0.40001], [0.4]]
    turned = [[0.8], [0.6], [0.4], [0.40001]]
    for attributes in (NmsAttributes(pre_nms_top_k=3), NmsAttributes(max_detections=3)):
        outcome = both_ways(image(boxes, p, q), image(boxes, turned, q), attributes)
        assert (outcome.excused, outcome.different) == (4, 0)
    at_threshold = [image(boxes, values, q, score_threshold=0.400005) for values in (p, turned)]
    assert both_ways(*at_threshold).different == 0
    at_floor = NmsAttributes(candidate_floor=0.400005)
    assert both_ways(image(boxes, p, q), image(boxes, turned, q), at_floor).different == 0


def test_scores_that_are_all_alike_are_refused_before_they_take_all_memory() -> None:
    count = MOST_CANDIDATES + 1
    with pytest.raises(ExportError, match=r"10001 candidates have keys so close .* is the network trained\?"):
        sure_candidates(
            np.tile(np.array([0, 0, 9, 9], np.float32), (count, 1)),
            np.full((count, 1), 0.5, np.float32),
            np.ones((count, 1), np.float32),
            exponents=PRODUCT,
            attributes=NmsAttributes(pre_nms_top_k=100, max_detections=10),
            tolerance=TWO_FRAMEWORKS,
        )


def test_a_clear_cut_is_not_excused() -> None:
    boxes, q = [[20 * i, 0, 20 * i + 10, 10] for i in range(4)], [[1]] * 4
    p, turned = [[0.8], [0.6], [0.42], [0.4]], [[0.8], [0.6], [0.4], [0.42]]
    for attributes in (NmsAttributes(pre_nms_top_k=3), NmsAttributes(max_detections=3)):
        assert both_ways(image(boxes, p, q), image(boxes, turned, q), attributes).different > 0


def test_cuts_lie_where_the_levels_do() -> None:
    assert level_cuts([192, 48, 12], 48) == (LevelCut(slice(0, 192), 48),)
    assert level_cuts([192, 49, 12], 48) == (LevelCut(slice(0, 192), 48), LevelCut(slice(192, 241), 48))
    assert level_cuts([5, 5], 10) == ()


def test_anchors_that_tie_at_the_cut_of_a_level_may_pass_and_clear_ones_must_or_cannot() -> None:
    p, q = np.array([[0.1], [0.9], [0.5], [0.50001], [0.2]], np.float32), np.ones((5, 1), np.float32)
    passed = passed_anchors(p, q, PRODUCT, (LevelCut(slice(1, 5), 2),), tie=1e-4)
    assert passed.must.tolist() == [True, True, False, False, False]
    assert passed.may.tolist() == [True, True, True, True, False]
    assert passed.own.tolist() == [True, True, False, True, False]


def test_a_level_without_ties_at_its_cut_leaves_no_doubt() -> None:
    case = three_apart()
    candidates, _ = sure(case, NmsAttributes(), cuts=(LevelCut(slice(1, 3), 1),))
    assert candidates.candidates.anchor_class.tolist() == [0, 3]
    assert candidates.must.all()


def test_the_owner_of_a_box_between_two_near_ties_is_open() -> None:
    """Two kept boxes of nearly equal keys both overlap a third, which ranks last and has the largest p."""
    attributes = NmsAttributes(out_score=OutScore.CLASSIFICATION_CLUSTERED)
    boxes = [[0, 0, 10, 10], [6, 0, 16, 10], [3, 0, 13, 10]]
    first = image(boxes, [[0.5], [0.49999], [0.9]], [[1], [1], [0.1]])
    second = image(boxes, [[0.49999], [0.5], [0.9]], [[1], [1], [0.1]])
    assert both_ways(first, second, attributes).different == 0
    clear = image(boxes, [[0.4], [0.5], [0.9]], [[1], [1], [0.1]])
    assert compare(clear, answer(first, attributes), attributes).different > 0
    _, detections = sure(clear, attributes)
    assert detections.low.tolist()[0] == pytest.approx(0.9)


@given(
    seed=st.integers(0, 2**32 - 1),
    out_score=st.sampled_from(OutScore),
    top_k=st.sampled_from((20, 1000)),
    agnostic=st.booleans(),
    cuts=st.sampled_from(((), (LevelCut(slice(0, 45), 12), LevelCut(slice(45, 60), 9)))),
)
def test_noise_below_the_tolerance_is_never_a_difference(
    seed: int, out_score: OutScore, top_k: int, agnostic: bool, cuts: tuple[LevelCut, ...]
) -> None:
    """The property that makes the comparison usable: rounding of either side passes, however crowded the image."""
    rng = np.random.default_rng(seed)
    attributes = NmsAttributes(
        out_score=out_score, pre_nms_top_k=top_k, max_detections=10, class_agnostic=agnostic, candidate_floor=0.05
    )
    boxes = random_boxes(rng, 60, field=30)
    # Coarse scores are full of ties, which noise then breaks.
    p, q = rng.integers(1, 20, (60, 2)) / 20, rng.integers(1, 5, (60, 1)) / 5
    ours, theirs = (
        image(boxes + rng.normal(0, 1e-5, boxes.shape), p * noise(rng, p), q * noise(rng, q), score_threshold=0.3)
        for _ in range(2)
    )
    cut_ours, theirs = after_cuts(ours, cuts), after_cuts(theirs, cuts)
    expected = detect(cut_ours, attributes).anchor_class
    candidates, detections = sure(ours, attributes, cuts)
    outcome = compare_rows(answer(theirs, attributes), detections, expected, TWO_FRAMEWORKS)
    assert outcome.different == 0, outcome
    pairs = select_candidates(theirs.boxes, theirs.p, theirs.q, PRODUCT, attributes)
    rows = Rows(pairs.boxes, pairs.labels, pairs.classification_scores, pairs.localization_scores)
    expected = select_candidates(cut_ours.boxes, cut_ours.p, cut_ours.q, PRODUCT, attributes).anchor_class
    assert compare_rows(rows, candidates, expected, TWO_FRAMEWORKS).different == 0


def after_cuts(case: NmsImage, cuts: Sequence[LevelCut]) -> NmsImage:
    """What a side sees that cuts its levels by its own keys: the others have no score."""
    own = passed_anchors(case.p, case.q, case.exponents, cuts, tie=0.0).own
    return replace(case, p=case.p * own[:, None])


def noise(rng: np.random.Generator, values: Any) -> Any:
    """Factors within 1e-5 of one: keys move by at most 2e-5, which is less than the tolerance of a tie."""
    return 1 + rng.uniform(-1e-5, 1e-5, values.shape)

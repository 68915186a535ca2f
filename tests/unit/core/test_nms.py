"""The reference CalibratedNMS on cases worked out by hand.

Boxes are 10 x 10 pixels and shifted along x: at a shift of d their IoU is (10 - d) / (10 + d), so 2/3 at 2, 3/7 at 4
and 1/9 at 8.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from calibox_core.errors import InvalidParameterError
from calibox_core.fusion import Exponents
from calibox_core.nms import (
    TENSORRT_TOP_K_LIMIT,
    Detections,
    NmsAttributes,
    OutScore,
    calibrated_nms,
    select_candidates,
    suppress,
)

BY_P = Exponents(1.0, 0.0, 0.0)
BY_Q = Exponents(0.0, 1.0, 0.0)
PRODUCT = Exponents(1.0, 1.0, 0.0)


def shifted(*shifts: float) -> NDArray[np.float32]:
    x = np.array(shifts, np.float32)
    return np.stack([x, np.zeros_like(x), x + 10, np.full_like(x, 10)], axis=1)


def column(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)[:, None]


def nms(
    boxes: NDArray[np.float32],
    p: NDArray[np.float32],
    q: NDArray[np.float32] | None = None,
    *,
    exponents: Exponents = BY_P,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.5,
    **attributes: Any,
) -> Detections:
    return calibrated_nms(
        boxes,
        p,
        np.ones((len(boxes), 1), np.float32) if q is None else q,
        exponents=exponents,
        score_threshold=score_threshold,
        iou_threshold=iou_threshold,
        attributes=NmsAttributes(**attributes),
    )


def test_a_box_removes_what_overlaps_it_too_much() -> None:
    found = nms(shifted(0, 2, 8), column([0.9, 0.8, 0.7]))
    assert found.anchor_class.tolist() == [0, 2]
    assert found.boxes.tolist() == shifted(0, 8).tolist()
    assert found.labels.tolist() == [0, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])


def test_a_removed_box_removes_nothing() -> None:
    """The chain 0, 3, 6: the second overlaps both others (7/13), but falls to the first, so the third stays."""
    assert nms(shifted(0, 3, 6), column([0.9, 0.8, 0.7])).anchor_class.tolist() == [0, 2]


def test_an_overlap_of_exactly_the_threshold_stays() -> None:
    half = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)  # IoU 1/2, exact in float32
    assert len(nms(half, column([0.9, 0.8]), iou_threshold=0.5).scores) == 2
    assert len(nms(half, column([0.9, 0.8]), iou_threshold=0.4999).scores) == 1


@pytest.mark.parametrize(("iou_threshold", "kept"), [(0.0, [0, 3]), (1.0, [0, 1, 2, 3])])
def test_the_ends_of_the_threshold(iou_threshold: float, kept: list[int]) -> None:
    boxes = shifted(0, 0, 8, 10)  # the last touches the first without overlapping it
    assert nms(boxes, column([0.9, 0.8, 0.7, 0.6]), iou_threshold=iou_threshold).anchor_class.tolist() == kept


def test_the_fusion_decides_who_is_kept() -> None:
    boxes, p, q = shifted(0, 2), column([0.9, 0.6]), column([0.5, 0.9])
    assert nms(boxes, p, q, exponents=BY_P).anchor_class.tolist() == [0]
    by_quality = nms(boxes, p, q, exponents=PRODUCT)  # 0.45 against 0.54
    assert by_quality.anchor_class.tolist() == [1]
    assert by_quality.classification_scores.tolist() == pytest.approx([0.6])
    assert by_quality.localization_scores.tolist() == pytest.approx([0.9])
    assert by_quality.scores.tolist() == pytest.approx([0.54])


def test_ties_go_to_the_lower_index() -> None:
    boxes = shifted(0, 2, 40, 42)
    assert nms(boxes, column([0.5] * 4)).anchor_class.tolist() == [0, 2]
    # The tie is in the key, not in the scores that make it.
    tied = nms(shifted(0, 2), column([0.25, 0.5]), column([0.5, 0.25]), exponents=PRODUCT)
    assert tied.anchor_class.tolist() == [0]


def test_classes_suppress_apart_or_together() -> None:
    boxes = shifted(0, 2)
    p = np.array([[0.9, 0.3], [0.2, 0.8]], np.float32)
    # Per class: anchor 0 wins class 0, anchor 1 wins class 1.
    assert nms(boxes, p).anchor_class.tolist() == [0, 3]
    assert nms(boxes, p).labels.tolist() == [0, 1]
    assert nms(boxes, p, class_agnostic=True).anchor_class.tolist() == [0]


def test_a_removed_box_belongs_to_the_first_kept_box_that_overlaps_it() -> None:
    # Keys fall from left to right; 2 overlaps 0 (3/7) and 1 (2/3), 3 overlaps 1 only.
    found = select_candidates(shifted(0, 6, 4, 9), column([0.9, 0.8, 0.7, 0.6]), column([1] * 4), BY_P, NmsAttributes())
    assert suppress(found, 0.4, class_agnostic=False).tolist() == [0, 1, 0, 1]
    assert suppress(found, 0.5, class_agnostic=False).tolist() == [0, 1, 1, 1]


CLUSTER = (shifted(0, 1, 2, 40), column([0.5, 0.9, 0.3, 0.4]), column([0.9, 0.5, 0.8, 0.7]))


@pytest.mark.parametrize(
    ("out_score", "scores"),
    [
        (OutScore.KEY, [0.9, 0.7]),  # the ranking is by q
        (OutScore.CLASSIFICATION, [0.5, 0.4]),
        (OutScore.CLASSIFICATION_CLUSTERED, [0.9, 0.4]),  # the kept box takes 0.9 from the second, which it removes
    ],
)
def test_what_is_reported(out_score: OutScore, scores: list[float]) -> None:
    found = nms(*CLUSTER, exponents=BY_Q, out_score=out_score)
    assert found.anchor_class.tolist() == [0, 3]
    assert found.scores.tolist() == pytest.approx(scores)
    assert found.classification_scores.tolist() == pytest.approx([0.5, 0.4])


def test_a_cluster_gives_its_score_to_its_owner_only() -> None:
    """2 overlaps both kept boxes and carries the highest p: the first in the order of q takes it."""
    found = nms(
        shifted(0, 6, 4),
        column([0.5, 0.6, 0.95]),
        column([0.9, 0.8, 0.7]),
        exponents=BY_Q,
        iou_threshold=0.4,
        out_score=OutScore.CLASSIFICATION_CLUSTERED,
    )
    assert found.anchor_class.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.95, 0.6])


def test_candidates_have_a_p_above_the_floor() -> None:
    floor = 0.25  # exact in float32
    found = nms(shifted(0, 20, 40), column([0.25, 0.2500001, 0.2]), column([1, 1, 1]), candidate_floor=floor)
    assert found.anchor_class.tolist() == [1]


def test_a_high_quality_does_not_lift_a_box_over_the_floor() -> None:
    found = nms(shifted(0, 2), column([0.04, 0.5]), column([1.0, 0.1]), exponents=BY_Q, candidate_floor=0.05)
    assert found.anchor_class.tolist() == [1]


def test_p_of_zero_is_never_a_candidate() -> None:
    assert nms(shifted(0, 20), column([0.0, 0.1]), candidate_floor=0.0).anchor_class.tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["box", "p", "q"])
def test_what_is_not_finite_is_no_candidate(where: str, value: float) -> None:
    boxes, p, q = shifted(0, 2, 40), column([0.9, 0.8, 0.7]), column([0.5, 0.5, 0.5])
    {"box": boxes, "p": p, "q": q}[where][0, 0] = value
    found = nms(boxes, p, q)
    assert found.anchor_class.tolist() == [1, 2]
    assert np.isfinite(found.boxes).all()


def test_one_bad_score_leaves_the_anchors_other_classes() -> None:
    p = np.array([[np.nan, 0.8]], np.float32)
    assert nms(shifted(0), p).anchor_class.tolist() == [1]


def test_quality_may_differ_by_class() -> None:
    p = np.array([[0.8, 0.8], [0.8, 0.8]], np.float32)
    q = np.array([[0.9, 0.2], [0.3, 0.7]], np.float32)
    found = nms(shifted(0, 2), p, q, exponents=PRODUCT)
    # Class 0 goes to anchor 0, class 1 to anchor 1, in the order of their keys.
    assert found.anchor_class.tolist() == [0, 3]
    assert found.localization_scores.tolist() == pytest.approx([0.9, 0.7])


def test_quality_of_an_anchor_serves_all_its_classes() -> None:
    found = nms(shifted(0), np.array([[0.8, 0.6]], np.float32), column([0.5]), exponents=PRODUCT)
    assert found.localization_scores.tolist() == [0.5, 0.5]
    assert found.scores.tolist() == pytest.approx([0.4, 0.3])


def test_the_best_candidates_by_key_go_on() -> None:
    found = nms(shifted(0, 20, 40), column([0.3, 0.9, 0.6]), column([0.9, 0.1, 0.6]), exponents=BY_Q, pre_nms_top_k=2)
    assert found.anchor_class.tolist() == [0, 2]


def test_a_tie_at_the_end_of_the_top_goes_to_the_lower_index() -> None:
    found = nms(shifted(0, 20, 40), column([0.5, 0.5, 0.5]), pre_nms_top_k=2)
    assert found.anchor_class.tolist() == [0, 1]


def test_the_top_is_cut_before_suppression() -> None:
    """Two copies of one box fill the top of two: the box that stands alone is not asked."""
    found = nms(shifted(0, 0, 40), column([0.9, 0.8, 0.7]), pre_nms_top_k=2)
    assert found.anchor_class.tolist() == [0]


def test_the_count_is_cut_before_the_threshold() -> None:
    """Ranked by q and reported by p: the best by p is cut, so that nothing above the threshold is left."""
    boxes, p, q = shifted(0, 20, 40), column([0.2, 0.3, 0.9]), column([0.9, 0.8, 0.7])
    found = nms(boxes, p, q, exponents=BY_Q, out_score=OutScore.CLASSIFICATION, max_detections=2, score_threshold=0.5)
    assert found.scores.tolist() == []
    found = nms(boxes, p, q, exponents=BY_Q, out_score=OutScore.CLASSIFICATION, max_detections=2, score_threshold=0.25)
    assert found.anchor_class.tolist() == [1]


def test_a_score_of_exactly_the_threshold_is_returned() -> None:
    assert nms(shifted(0), column([0.5]), score_threshold=0.5).scores.tolist() == [0.5]
    assert nms(shifted(0), column([0.5]), score_threshold=0.50001).scores.tolist() == []


def test_the_threshold_does_not_touch_suppression() -> None:
    """A kept box below the threshold is not returned, and what it removed does not come back."""
    found = nms(
        shifted(0, 2),
        column([0.3, 0.9]),
        column([0.9, 0.1]),
        exponents=BY_Q,
        out_score=OutScore.CLASSIFICATION,
        score_threshold=0.5,
    )
    assert found.anchor_class.tolist() == []


def test_inverted_boxes_overlap_nothing() -> None:
    boxes = shifted(0, 0, 0)
    boxes[1] = [10, 0, 0, 10]  # x2 < x1
    boxes[2] = [5, 5, 5, 5]  # a point
    assert nms(boxes, column([0.9, 0.8, 0.7]), iou_threshold=0.0).anchor_class.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("anchors", "classes"), [(0, 1), (0, 80), (3, 0), (0, 0)])
def test_nothing_gives_nothing(anchors: int, classes: int) -> None:
    found = nms(shifted(*range(anchors)), np.empty((anchors, classes), np.float32))
    assert [field.shape for field in found] == [(0, 4), (0,), (0,), (0,), (0,), (0,)]
    assert [str(field.dtype) for field in found] == ["float32", "int32", "float32", "float32", "float32", "int64"]


def test_other_types_are_taken_as_float32() -> None:
    found = nms(shifted(0).astype(np.float64), column([0.1]).astype(np.float64), column([0.2]).astype(np.float16))
    assert {str(field.dtype) for field in (found.boxes, found.scores, found.localization_scores)} == {"float32"}


def test_inputs_stay_as_they_were() -> None:
    boxes, p, q = (array.copy() for array in CLUSTER)
    nms(boxes, p, q, exponents=BY_Q, out_score=OutScore.CLASSIFICATION_CLUSTERED)
    for array, before in zip((boxes, p, q), CLUSTER, strict=True):
        assert np.array_equal(array, before)


@pytest.mark.parametrize("exponents", [(-1.0, 0.0, 0.0), (1.0, float("nan"), 0.0)])
def test_exponents_that_could_turn_the_order_are_refused(exponents: tuple[float, float, float]) -> None:
    with pytest.raises(InvalidParameterError, match="at least 0"):
        nms(shifted(0), column([0.5]), exponents=Exponents(*exponents))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pre_nms_top_k", 0),
        ("pre_nms_top_k", TENSORRT_TOP_K_LIMIT + 1),
        ("max_detections", 0),
        ("candidate_floor", -0.1),
        ("candidate_floor", 1.0),
        ("out_score", "best"),
        ("score_threshold", 0.5),
    ],
)
def test_attributes_outside_their_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        NmsAttributes.model_validate({field: value})

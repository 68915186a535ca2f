"""Box geometry against plain loops over corners."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from calibox_core.boxes import box_area, clip_boxes, intersection_area, pairwise_iou, xywh_to_xyxy, xyxy_to_xywh

# Whole and half pixels: every product and sum below is exact in float64, so that results can be compared with ==.
coordinates = st.integers(-40, 40).map(lambda v: v / 2)


def boxes(dtype: type = np.float64) -> st.SearchStrategy[NDArray[np.float64]]:
    """Between 0 and 6 boxes, inverted and empty ones among them."""
    return st.integers(0, 6).flatmap(lambda n: npst.arrays(dtype, (n, 4), elements=coordinates))


def area_of(box: list[float]) -> float:
    x1, y1, x2, y2 = box
    return max(0.0, x2 - x1) * max(0.0, y2 - y1)


def common_of(one: list[float], other: list[float]) -> float:
    return area_of([max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])])


@given(boxes())
def test_area_agrees_with_a_loop(some: NDArray[np.float64]) -> None:
    assert box_area(some).tolist() == [area_of(box) for box in some.tolist()]


@given(boxes(), boxes())
def test_intersection_agrees_with_a_loop(some: NDArray[np.float64], others: NDArray[np.float64]) -> None:
    found = intersection_area(some, others)
    assert found.shape == (len(some), len(others))
    assert found.tolist() == [[common_of(one, other) for other in others.tolist()] for one in some.tolist()]


@given(boxes(), boxes())
def test_iou_agrees_with_a_loop(some: NDArray[np.float64], others: NDArray[np.float64]) -> None:
    found = pairwise_iou(some, others)
    for i, one in enumerate(some.tolist()):
        for j, other in enumerate(others.tolist()):
            union = area_of(one) + area_of(other) - common_of(one, other)
            assert found[i, j] == (common_of(one, other) / union if union > 0 else 0.0)


@given(boxes())
def test_iou_is_one_with_itself_and_symmetric(some: NDArray[np.float64]) -> None:
    found = pairwise_iou(some, some)
    assert np.array_equal(found, found.T)
    assert np.diag(found).tolist() == [1.0 if area_of(box) > 0 else 0.0 for box in some.tolist()]
    assert ((found >= 0) & (found <= 1)).all()


@given(boxes())
def test_corner_and_size_forms_convert_back(some: NDArray[np.float64]) -> None:
    assert np.array_equal(xywh_to_xyxy(xyxy_to_xywh(some)), some)
    assert xyxy_to_xywh(some).tolist() == [[a, b, c - a, d - b] for a, b, c, d in some.tolist()]


@given(boxes(np.float32), st.integers(1, 20), st.integers(1, 20))
def test_clipping_agrees_with_a_loop(some: NDArray[np.float32], width: int, height: int) -> None:
    found = clip_boxes(some, width=width, height=height)
    assert found.dtype == np.float32
    limits = (width, height, width, height)
    assert found.tolist() == [
        [min(max(v, 0.0), limit) for v, limit in zip(box, limits, strict=True)] for box in some.tolist()
    ]

"""LED's coarse-to-fine code of overlaps against numbers computed by hand, and what must hold for any."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from calibox_training.led.coding import (
    RANGE_EDGES,
    RANGE_HALVES,
    RANGE_MIDDLES,
    derived_iou,
    expected_overlaps,
    localization_score,
    loss_elements,
    sharp_l2,
    value_range,
)
from calibox_training.quality_spec import LedQuality

SPEC = LedQuality()
DIRECT = LedQuality(coarse_to_fine=False)
CERTAIN = 40.0  # a logit whose softmax against zeros is 1 in float32


def _raw(coarse: list[list[float]], fine: list[list[float]]) -> Tensor:
    """One anchor's 24 values: for each overlap four logits, then four values."""
    rows = [value for logits, values in zip(coarse, fine, strict=True) for value in (*logits, *values)]
    return torch.tensor(rows)[None, None]


def test_ranges_are_those_of_the_paper_and_meet_at_their_edges() -> None:
    assert value_range(torch.tensor([0.0, 0.0999, 0.1, 0.39, 0.4, 0.69, 0.7, 1.0])).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    lows = [m - h for m, h in zip(RANGE_MIDDLES, RANGE_HALVES, strict=True)]
    highs = [m + h for m, h in zip(RANGE_MIDDLES, RANGE_HALVES, strict=True)]
    assert lows == pytest.approx([0.0, *RANGE_EDGES])
    assert highs == pytest.approx([*RANGE_EDGES, 1.0])


def test_an_estimate_is_the_expectation_over_the_ranges() -> None:
    # IoD: ranges 2 and 3 at a half each: (0.55 + 0.15 * 1 + 0.85 + 0.15 * -1) / 2 = 0.7
    # IoG: range 1 for certain, fine 0.4: 0.25 + 0.15 * 0.4 = 0.31
    # IoU: all four alike, fine 0: (0.05 + 0.25 + 0.55 + 0.85) / 4 = 0.425
    coarse = [[-CERTAIN, -CERTAIN, 0.0, 0.0], [0.0, CERTAIN, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    fine = [[9.0, 9.0, 1.0, -1.0], [9.0, 0.4, 9.0, 9.0], [0.0, 0.0, 0.0, 0.0]]
    raw = _raw(coarse, fine)
    assert expected_overlaps(SPEC, raw)[0, 0].tolist() == pytest.approx([0.7, 0.31, 0.425], abs=1e-6)
    # IoU' = 0.7 * 0.31 / (0.7 + 0.31 - 0.217) = 0.217 / 0.793; 0.6 * 0.425 + 0.4 * 0.273644...
    assert localization_score(SPEC, raw).item() == pytest.approx(0.255 + 0.4 * 0.217 / 0.793, abs=1e-6)


def test_direct_regression_counts_from_the_middle_of_the_whole_range() -> None:
    raw = torch.tensor([[[0.4, -0.2, 0.0]]])
    assert expected_overlaps(DIRECT, raw)[0, 0].tolist() == pytest.approx([0.7, 0.4, 0.5])
    # IoU' = 0.28 / (1.1 - 0.28) = 0.28 / 0.82
    assert localization_score(DIRECT, raw).item() == pytest.approx(0.3 + 0.4 * 0.28 / 0.82)


def test_an_estimate_outside_of_0_to_1_is_clamped_and_two_empty_shares_derive_no_overlap() -> None:
    beyond = torch.tensor([[[3.0, 3.0, 3.0], [-3.0, -3.0, -3.0]]])
    assert localization_score(DIRECT, beyond)[0, :, 0].tolist() == [1.0, 0.0]


@given(st.lists(st.floats(-50, 50, width=32), min_size=24, max_size=24))
def test_a_score_lies_in_0_to_1(values: list[float]) -> None:
    score = localization_score(SPEC, torch.tensor(values)[None, None])
    assert 0 <= score.item() <= 1


@given(
    common=st.floats(0.01, 100),
    rest_of_box=st.floats(0, 100),
    rest_of_object=st.floats(0, 100),
)
def test_exact_shares_derive_the_exact_iou(common: float, rest_of_box: float, rest_of_object: float) -> None:
    iod, iog = common / (common + rest_of_box), common / (common + rest_of_object)
    found = derived_iou(torch.tensor(iod, dtype=torch.float64), torch.tensor(iog, dtype=torch.float64))
    assert found.item() == pytest.approx(common / (common + rest_of_box + rest_of_object), rel=1e-9)


def test_sharp_l2_by_hand() -> None:
    # 0.5^2 / 2; 2^3 / 3 + 1/6 = 17/6; both signs alike
    assert sharp_l2(torch.tensor([0.0, 0.5, -0.5, 2.0, -2.0])).tolist() == pytest.approx(
        [0, 0.125, 0.125, 17 / 6, 17 / 6]
    )


def test_sharp_l2_has_no_jump_in_value_or_slope_at_1() -> None:
    x = torch.tensor([1 - 1e-9, 1.0, -1 + 1e-9, -1.0], dtype=torch.float64, requires_grad=True)
    value = sharp_l2(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    assert value.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5], abs=1e-8)
    assert slope.tolist() == pytest.approx([1.0, 1.0, -1.0, -1.0], abs=1e-8)


def test_the_loss_is_cross_entropy_and_the_distance_in_the_true_range() -> None:
    coarse = [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]]
    fine = [[0.0, 9.0, 9.0, 9.0], [9.0, 0.2, 9.0, 9.0], [9.0, 9.0, 9.0, 3.0]]
    overlap = torch.tensor([[[0.0, 0.31, 0.85]]])  # ranges 0, 1, 3; fine targets -1, 0.4, 0
    found = loss_elements(SPEC, _raw(coarse, fine), overlap)
    entropy = [math.log(4), math.log(3 + math.e) - 1, math.log(3 + math.e**2) - 2]
    assert found.coarse[0, 0].tolist() == pytest.approx(entropy, abs=1e-6)
    # errors 1, -0.2, 3: 1/2, 0.02, 9 + 1/6
    assert found.fine[0, 0].tolist() == pytest.approx([0.5, 0.02, 9 + 1 / 6], abs=1e-5)
    plain = loss_elements(LedQuality(sharp_l2=False), _raw(coarse, fine), overlap)
    assert plain.fine[0, 0].tolist() == pytest.approx([0.5, 0.02, 4.5], abs=1e-5)


def test_direct_regression_has_no_cross_entropy() -> None:
    found = loss_elements(DIRECT, torch.tensor([[[0.0, 0.0, 2.0]]]), torch.tensor([[[0.5, 1.0, 0.0]]]))
    assert found.coarse.tolist() == [[[0.0, 0.0, 0.0]]]
    # errors 0, -1, 3
    assert found.fine[0, 0].tolist() == pytest.approx([0.0, 0.5, 9 + 1 / 6])


@pytest.mark.parametrize("spec", [SPEC, DIRECT], ids=["coarse to fine", "direct"])
@pytest.mark.parametrize("value", [0.0, 0.05, 0.1, 0.3, 0.5, 0.69, 0.8, 1.0])
def test_the_loss_is_smallest_where_the_estimate_is_the_truth(spec: LedQuality, value: float) -> None:
    """Descending the loss on one value ends with that value."""
    overlap = torch.full((1, 1, 3), value)
    raw = torch.zeros(1, 1, spec.values, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        found = loss_elements(spec, raw, overlap)
        (found.coarse + found.fine).sum().backward()
        optimizer.step()
    assert expected_overlaps(spec, raw.detach())[0, 0].tolist() == pytest.approx([value] * 3, abs=0.02)


Read = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    "read",
    [
        lambda raw: localization_score(SPEC, raw),
        lambda raw: loss_elements(SPEC, raw, torch.full((*raw.shape[:2], 3), 0.5)).coarse,
    ],
    ids=["score", "loss"],
)
def test_halves_are_read_in_float32(read: Read) -> None:
    assert read(torch.zeros(1, 2, 24, dtype=torch.bfloat16)).dtype == torch.float32

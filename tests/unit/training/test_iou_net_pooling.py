"""Precise RoI pooling against hand-computed numbers, a fine sum over the surface, and plain autograd.

Letters as in `prroi_pool`.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibox_training.iou_net.bin_weights import bin_weight_slopes, bin_weights, spans
from calibox_training.iou_net.prroi_pool import flatten_maps, pool_maps, prroi_pool, roi_levels
from calibox_training.iou_net.windows import CHUNK_NUMBERS, chunks

SQUARE = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]], dtype=torch.double)  # the surface 1 + x + 2 y between its pixels


def pool_one(features: Tensor, roi: list[float], bins: tuple[int, int]) -> Tensor:
    """The bins of one RoI of one map of one feature."""
    rois = torch.tensor([roi], dtype=features.dtype)
    return prroi_pool(features, rois, torch.zeros(1, dtype=torch.long), bins, 1.0)[0, 0]


@pytest.mark.parametrize(
    ("roi", "bins", "means"),
    [
        ([0, 0, 1, 1], (1, 1), [[2.5]]),
        # Linear between the pixels, so a bin's mean is the value at its centre: 1 + x + 2 y at 0.25 and 0.75.
        ([0, 0, 1, 1], (2, 2), [[1.75, 2.25], [2.75, 3.25]]),
        # Beyond the corner (1 + x)(1 + y) * 1, whose mean over [-1, 0] x [-1, 0] is 1/2 * 1/2.
        ([-1, -1, 0, 0], (1, 1), [[0.25]]),
        # Along either axis pixel 0 weighs (1/2) / 2 and pixel 1 weighs 1 / 2: (1 + 2*2 + 2*3 + 4*4) / 16.
        ([0, 0, 2, 2], (1, 1), [[27 / 16]]),
        ([2, 0, 3, 1], (1, 1), [[0.0]]),
        ([-9, -9, -2, -2], (2, 1), [[0.0], [0.0]]),
        ([0.5, 0, 0.5, 1], (1, 1), [[0.0]]),
        ([1, 0, 0, 1], (1, 1), [[0.0]]),
    ],
)
def test_hand_computed_means(roi: list[float], bins: tuple[int, int], means: list[list[float]]) -> None:
    torch.testing.assert_close(pool_one(SQUARE, roi, bins), torch.tensor(means, dtype=torch.double))


def surface(pixels: Tensor, x: float, y: float) -> float:
    """Equation 2 of the paper, as a loop."""
    return sum(
        max(0.0, 1 - abs(x - i)) * max(0.0, 1 - abs(y - j)) * float(pixels[j, i])
        for j in range(pixels.shape[0])
        for i in range(pixels.shape[1])
    )


@pytest.mark.parametrize("roi", [[0.3, -0.7, 2.9, 1.4], [1.2, 0.4, 1.5, 3.8]])
def test_equals_a_fine_sum_over_the_surface(roi: list[float]) -> None:
    pixels = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    steps, bins = 40, 2
    found = pool_one(pixels[None, None], roi, (bins, bins))
    width, height = (roi[2] - roi[0]) / bins, (roi[3] - roi[1]) / bins
    for row in range(bins):
        for column in range(bins):
            at = [(place + 0.5) / steps for place in range(steps)]
            total = sum(
                surface(pixels, roi[0] + (column + u) * width, roi[1] + (row + v) * height) for u in at for v in at
            )
            # The midpoint rule errs where the surface has kinks, by less than a square of the step.
            assert abs(total / steps**2 - float(found[row, column])) < (max(width, height) / steps) ** 2


ROIS = [[1.3, 2.2, 9.1, 8.4], [-3, -2, 4.2, 20], [0.2, 0.3, 0.7, 0.9], [30, 30, 40, 40], [5.5, 1.1, 6.1, 11.9]]
IMAGES = [0, 1, 1, 0, 1]


def antiderivative(t: Tensor) -> Tensor:
    """The integral of the hat up to t."""
    rising, falling = (t + 1) ** 2 / 2, 1 - (1 - t) ** 2 / 2
    return torch.where(t < -1, 0, torch.where(t < 0, rising, torch.where(t < 1, falling, 1)))


def plain_weights(low: Tensor, high: Tensor, bins: int, size: int) -> Tensor:
    """Weights ``[bins, size]`` of one RoI along an axis, by differences of the antiderivative."""
    edges = low + (high - low) * torch.arange(bins + 1) / bins
    integral = antiderivative(edges[:, None] - torch.arange(size))
    return (integral[1:] - integral[:-1]) / (edges[1:] - edges[:-1])[:, None]


def plain_pool(features: Tensor, rois: Tensor, image_index: list[int], size: tuple[int, int], scale: float) -> Tensor:
    """Y F X^T RoI by RoI over whole maps, for autograd to differentiate."""
    pooled = []
    for roi, image in zip(rois * scale, image_index, strict=True):
        y = plain_weights(roi[1], roi[3], size[0], features.shape[2])
        x = plain_weights(roi[0], roi[2], size[1], features.shape[3])
        pooled.append(torch.einsum("ph,fhw,qw->fpq", y, features[image], x))
    return torch.stack(pooled)


def inputs(kind: torch.dtype = torch.double) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 7, dtype=torch.double, generator=generator).to(kind).requires_grad_()
    return features, torch.tensor(ROIS, dtype=kind, requires_grad=True)


def test_values_and_gradients_equal_autograd_through_whole_maps() -> None:
    features, rois = inputs()
    mix = torch.randn(5, 3, 3, 2, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    ours = prroi_pool(features, rois, torch.tensor(IMAGES), (3, 2), 0.5)
    plain = plain_pool(features, rois, IMAGES, (3, 2), 0.5)
    torch.testing.assert_close(ours, plain)
    for found, wanted in zip(
        torch.autograd.grad((ours * mix).sum(), (features, rois)),
        torch.autograd.grad((plain * mix).sum(), (features, rois)),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_gradcheck_of_features_and_coordinates() -> None:
    features, rois = inputs()

    def pool(features: Tensor, rois: Tensor) -> Tensor:
        return prroi_pool(features, rois, torch.tensor(IMAGES), (3, 2), 0.5)

    assert torch.autograd.gradcheck(pool, (features, rois))


def test_slopes_of_the_weights_are_those_of_autograd() -> None:
    low = torch.tensor([0.3, -1.7, 4.1], dtype=torch.double, requires_grad=True)
    high = torch.tensor([2.9, 0.4, 9.6], dtype=torch.double, requires_grad=True)
    along = spans(low, high, 7)
    along = along.within(7, 7)
    weights = bin_weights(along, 1, 7)  # one bin: its edges are the RoI's
    by_low, by_high = bin_weight_slopes(along, weights)
    for place in range(7):
        for slope, edge in ((by_low, low), (by_high, high)):
            (wanted,) = torch.autograd.grad(weights[:, 0, place].sum(), edge, retain_graph=True)
            torch.testing.assert_close(slope[:, 0, place], wanted)


def test_zero_areas_give_zeros_and_finite_gradients() -> None:
    features, _ = inputs(torch.float32)
    rois = torch.tensor(
        [
            [3, 3, 3, 9],
            [3, 3, 9, 3],
            [4, 4, 4, 4],
            [9, 9, 3, 3],
            [0, 0, 1e-40, 1e-40],
            [2, 2, 2 + 1e-6, 9],
            [math.nan] * 4,
        ],
        requires_grad=True,
    )
    pooled = prroi_pool(features, rois, torch.zeros(7, dtype=torch.long), (7, 7), 1.0)
    assert pooled[[0, 1, 2, 3, 6]].abs().max() == 0
    gradients = torch.autograd.grad(pooled.sum(), (features, rois))
    assert torch.isfinite(pooled).all()
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert gradients[1][[0, 1, 2, 3, 6]].abs().max() == 0


def test_float32_inside_autocast_forward_and_backward() -> None:
    features, rois = inputs(torch.float32)
    plain = prroi_pool(features, rois, torch.tensor(IMAGES), (3, 2), 0.5)
    wanted = torch.autograd.grad(plain.sum(), (features, rois))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = prroi_pool(features, rois, torch.tensor(IMAGES), (3, 2), 0.5)
        found = torch.autograd.grad(pooled.sum(), (features, rois))
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, plain, rtol=0, atol=0)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_half_features_come_out_as_float32_with_gradients_of_their_own_kind() -> None:
    features = torch.ones(1, 2, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    pooled = prroi_pool(features, torch.tensor([[1.0, 1, 3, 3]]), torch.tensor([0]), (2, 2), 1.0)
    pooled.sum().backward()
    assert pooled.dtype == torch.float32
    assert features.grad is not None
    assert features.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("batch", [0, 2])
def test_no_rois_are_pooled_like_any(batch: int) -> None:
    features = torch.ones(batch, 3, 4, 5, requires_grad=True)
    rois = torch.zeros(0, 4, requires_grad=True)
    pooled = prroi_pool(features, rois, torch.zeros(0, dtype=torch.long), (7, 7), 0.25)
    pooled.sum().backward()
    assert pooled.shape == (0, 3, 7, 7)
    assert features.grad is not None
    assert features.grad.shape == features.shape


def test_the_order_of_memory_does_not_matter() -> None:
    features, rois = inputs()
    plain = prroi_pool(features, rois, torch.tensor(IMAGES), (3, 2), 0.5)
    last = prroi_pool(features.to(memory_format=torch.channels_last), rois, torch.tensor(IMAGES), (3, 2), 0.5)
    torch.testing.assert_close(last, plain, rtol=0, atol=0)


def test_features_that_are_a_part_of_others() -> None:
    whole, rois = inputs()
    index = torch.tensor([0, 0, 0, 0, 0])
    part = whole[1:, 1:, :, 2:]
    found = prroi_pool(part, rois, index, (3, 2), 0.5)
    torch.testing.assert_close(found, prroi_pool(part.clone(), rois, index, (3, 2), 0.5), rtol=0, atol=0)
    last = whole.detach().to(memory_format=torch.channels_last)[1:]
    found = prroi_pool(last, rois, index, (3, 2), 0.5)
    torch.testing.assert_close(found, prroi_pool(whole[1:], rois, index, (3, 2), 0.5), rtol=0, atol=0)


def test_chunks_hold_bounded_windows_and_every_roi_that_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNK_NUMBERS, "cpu", 2000)
    generator = torch.Generator().manual_seed(3)
    corner = torch.rand(60, 2, generator=generator) * 30
    rois = torch.cat([corner, corner + torch.rand(60, 2, generator=generator) * 12], dim=1)
    features, image = torch.randn(1, 5, 30, 40, generator=generator), torch.zeros(60, dtype=torch.long)
    found = list(chunks(rois, image, image, flatten_maps([features]), (3, 3)))
    assert len(found) > 5
    # One window may be larger than the bound; together they may not.
    assert all(chunk.pixels_nhw.numel() * 5 <= 2000 or len(chunk.rows_n) == 1 for chunk in found)
    rows = sorted(int(row) for chunk in found for row in chunk.rows_n)
    assert rows == [row for row in range(60) if rois[row, 1] < 30]
    in_chunks = prroi_pool(features, rois, image, (3, 3), 1.0)
    one_by_one = torch.cat([prroi_pool(features, roi[None], image[:1], (3, 3), 1.0) for roi in rois])
    torch.testing.assert_close(in_chunks, one_by_one)


def test_levels_by_the_square_root_of_the_area() -> None:
    # 112 px: 4 + log2(1/2) = 3; 223 px still 3; 224 px 4; 448 px 5; 1792 px 7, of which 5 is the coarsest there is.
    sides = torch.tensor([0.0, 10, 112, 223, 224, 447, 448, 1792])
    boxes = torch.stack([sides * 0 + 3, sides * 0 + 5, 3 + sides * 2, 5 + sides / 2], dim=1)
    assert roi_levels(boxes, lowest=3, highest=5).tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert roi_levels(torch.full((1, 4), math.nan), lowest=3, highest=5).tolist() == [0]


def test_several_levels_are_one_pooling_each() -> None:
    generator = torch.Generator().manual_seed(4)
    shapes, scales = [(16, 20), (8, 10), (4, 5)], (1 / 8, 1 / 16, 1 / 32)
    levels = [torch.randn(2, 3, *shape, generator=generator, requires_grad=True) for shape in shapes]
    corner = torch.rand(30, 2, generator=generator) * 80
    rois = torch.cat([corner, corner + 5 + torch.rand(30, 2, generator=generator) * 60], dim=1)
    image = torch.arange(30) % 2
    level = torch.arange(30) % 3
    together = pool_maps(flatten_maps(levels), rois, image, level, (2, 2), scales=scales)
    for number in range(3):
        alone = prroi_pool(levels[number], rois, image, (2, 2), scales[number])
        torch.testing.assert_close(together[level == number], alone[level == number])
    gradients = torch.autograd.grad(together.sum(), levels)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


coordinate = st.floats(-3, 9, width=32)
roi = st.tuples(coordinate, coordinate, st.floats(0.0078125, 8, width=32), st.floats(0.0078125, 8, width=32)).map(
    lambda v: [v[0], v[1], v[0] + v[2], v[1] + v[3]]
)


@given(roi=roi, seed=st.integers(0, 2**31 - 1))
@settings(max_examples=40)
def test_linear_in_the_features(roi: list[float], seed: int) -> None:
    one, other = torch.randn(2, 1, 1, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    together = pool_one(2 * one - 3 * other, roi, (2, 3))
    torch.testing.assert_close(together, 2 * pool_one(one, roi, (2, 3)) - 3 * pool_one(other, roi, (2, 3)))


@given(left=st.floats(0, 4), top=st.floats(0, 3), width=st.floats(1e-3, 1), height=st.floats(1e-3, 1))
@settings(max_examples=40)
def test_a_constant_map_is_its_constant(left: float, top: float, width: float, height: float) -> None:
    pooled = pool_one(torch.full((1, 1, 5, 6), 3.5), [left, top, left + width, top + height], (3, 3))
    torch.testing.assert_close(pooled, torch.full((3, 3), 3.5))


@given(roi=roi, seed=st.integers(0, 2**31 - 1), bins=st.integers(1, 4))
@settings(max_examples=40)
def test_the_mean_of_all_bins_is_the_one_bin(roi: list[float], seed: int, bins: int) -> None:
    features = torch.randn(1, 1, 5, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    parts = pool_one(features, roi, (bins, bins + 1))
    assert math.isclose(float(parts.mean()), float(pool_one(features, roi, (1, 1))), abs_tol=1e-9)

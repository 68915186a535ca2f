import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.boxes import intersection_area, pairwise_iou
from calibox_training.anchor_spec import AnchorSpec
from calibox_training.anchors import AnchorGrid
from calibox_training.box_coder import (
    BoxCoder,
    aligned_iou,
    batched_intersection,
    batched_iou,
    centerness,
    decode_boxes,
    encode_boxes,
)
from calibox_training.model_spec import BoxSpec


def _boxes(rng: np.random.Generator, count: int) -> torch.Tensor:
    corner = rng.uniform(0, 200, (count, 2))
    return torch.from_numpy(np.concatenate([corner, corner + rng.uniform(2, 100, (count, 2))], axis=1)).float()


@given(st.integers(0, 2**32 - 1))
def test_decoding_undoes_encoding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, anchors = _boxes(rng, 7), _boxes(rng, 7)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-4)


def test_decoding_matches_the_formula_written_out() -> None:
    anchor, delta = (10.0, 20.0, 30.0, 60.0), (0.1, -0.2, math.log(2), math.log(0.5))
    cx, cy, w, h = 20 + 0.1 * 20, 40 - 0.2 * 40, 20 * 2, 40 * 0.5
    expected = torch.tensor([[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]])
    torch.testing.assert_close(decode_boxes(torch.tensor([delta]), torch.tensor([anchor])), expected)


def test_huge_deltas_decode_to_finite_boxes() -> None:
    assert decode_boxes(torch.full((1, 4), 1e4), torch.tensor([[0.0, 0.0, 10.0, 10.0]])).isfinite().all()


@given(st.integers(0, 2**32 - 1))
def test_torch_ious_equal_those_of_core(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, others = _boxes(rng, 5), _boxes(rng, 6)
    iou = torch.from_numpy(pairwise_iou(boxes.numpy(), others.numpy()))
    torch.testing.assert_close(batched_iou(boxes[None], others)[0], iou)
    common = torch.from_numpy(intersection_area(boxes.numpy(), others.numpy()))
    torch.testing.assert_close(batched_intersection(boxes[None], others)[0], common)
    torch.testing.assert_close(aligned_iou(boxes, others[:5]), iou.diagonal())


def test_anchors_follow_stride_scale_and_ratio_in_a_plain_loop() -> None:
    spec = AnchorSpec(base_size=4, scales=(1.0, 1.5), ratios=(0.5, 2.0), offset=0.5)
    found = AnchorGrid(spec)([(2, 3), (1, 2)], [8, 16])
    expected, strides = [], []
    for height, width, stride in [(2, 3, 8), (1, 2, 16)]:
        for row in range(height):
            for column in range(width):
                for ratio in (0.5, 2.0):
                    for scale in (1.0, 1.5):
                        w = 4 * stride * scale / math.sqrt(ratio)
                        h = w * ratio
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                        strides.append(float(stride))
    torch.testing.assert_close(found.boxes_A4, torch.tensor(expected))
    assert found.stride_A.tolist() == strides
    assert found.counts == (24, 8)


CODINGS = {
    "delta": BoxSpec(centre_deviation=0.1, size_deviation=0.2),
    "ltrb": BoxSpec(coding="ltrb"),
    "dfl": BoxSpec(coding="dfl", reg_max=16),
}


@pytest.mark.parametrize("name", CODINGS)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_coding_decodes_what_it_encodes(name: str, seed: int) -> None:
    """Boxes around the anchors' centres, within the growth of 62.5 that deltas are held to."""
    rng, coder, stride = np.random.default_rng(seed), BoxCoder(CODINGS[name]), torch.full((7,), 8.0)
    anchors = _boxes(rng, 7)
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    reach = torch.from_numpy(rng.uniform(1, 60, (7, 4))).float()
    boxes = torch.cat([centre - reach[:, :2], centre + reach[:, 2:]], dim=1)
    code = coder.encode(boxes, anchors, stride)
    if name == "dfl":
        code = _as_distribution(code)
    torch.testing.assert_close(coder.decode(code, anchors, stride), boxes, atol=2e-2, rtol=1e-4)


def _as_distribution(distances: torch.Tensor) -> torch.Tensor:
    """Logits whose two bins around each distance have it as their mean."""
    low = distances.floor()
    bins = torch.arange(17.0)
    share = torch.where(bins == low[..., None], 1 - (distances - low)[..., None], 0.0)
    share = share + torch.where(bins == low[..., None] + 1, (distances - low)[..., None], 0.0)
    return share.clamp(min=1e-30).log().flatten(-2)


def test_distances_are_counted_in_strides() -> None:
    anchor, box, stride = torch.tensor([8.0, 8.0, 24.0, 24.0]), torch.tensor([8.0, 0.0, 48.0, 80.0]), torch.tensor(8.0)
    distances = torch.tensor([1.0, 2.0, 4.0, 8.0])  # of the centre (16, 16)
    torch.testing.assert_close(BoxCoder(CODINGS["dfl"]).encode(box, anchor, stride), distances)
    torch.testing.assert_close(BoxCoder(CODINGS["ltrb"]).encode(box, anchor, stride), distances.log())


@pytest.mark.parametrize("name", CODINGS)
def test_extreme_codes_and_absent_objects_stay_finite(name: str) -> None:
    coder, anchor, stride = BoxCoder(CODINGS[name]), torch.tensor([[0.0, 0.0, 64.0, 64.0]]), torch.tensor([8.0])
    assert coder.encode(torch.zeros(1, 4), anchor, stride).isfinite().all()
    for value in (-1e4, 1e4):
        code = torch.full((1, coder.values), value, dtype=torch.float16)
        boxes = coder.decode(code, anchor, stride)
        assert boxes.dtype == torch.float32
        assert boxes.isfinite().all()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0.0, 0.0, 20.0, 20.0), 1.0),
        ((5.0, 0.0, 20.0, 20.0), math.sqrt(0.5)),  # left 5, right 10
        ((5.0, 8.0, 20.0, 20.0), math.sqrt(0.5 * 0.2)),  # and top 2, bottom 10
        ((12.0, 0.0, 20.0, 20.0), 0.0),  # the centre lies outside
        ((0.0, 0.0, 0.0, 0.0), 0.0),
    ],
)
def test_centerness_by_hand(box: tuple[float, ...], expected: float) -> None:
    found = centerness(torch.tensor([box]), torch.tensor([[6.0, 6.0, 14.0, 14.0]]))
    assert found.item() == pytest.approx(expected, rel=1e-5)

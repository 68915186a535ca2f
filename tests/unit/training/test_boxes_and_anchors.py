import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibox_core.boxes import intersection_area, pairwise_iou
from calibox_training.anchors import AnchorGrid
from calibox_training.box_coder import (
    aligned_iou,
    batched_intersection,
    batched_iou,
    decode_boxes,
    encode_boxes,
)
from calibox_training.recipe import AnchorSpec


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
    for level, (height, width, stride) in zip(found, [(2, 3, 8), (1, 2, 16)], strict=True):
        expected = []
        for row in range(height):
            for column in range(width):
                for ratio in (0.5, 2.0):
                    for scale in (1.0, 1.5):
                        w = 4 * stride * scale / math.sqrt(ratio)
                        h = w * ratio
                        x, y = (column + 0.5) * stride, (row + 0.5) * stride
                        expected.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        torch.testing.assert_close(level, torch.tensor(expected))

"""Calls of Precise RoI pooling that reach its corners, their answers in float64, and the files of them for programs.

Letters: B images, F features, H x W pixels, K RoIs per image, P x Q bins.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibox_training.iou_net.prroi_pool import prroi_pool

SCALES = (1 / 4, 1 / 8, 1.0)
BINS = ((7, 7), (2, 3), (1, 1))
# Edges of bins carry the rounding of coordinates of about 20 pixels of the map, as with the ONNX function.
TOLERANCE = 1e-5
# Pooled values below 8 in float16, whose last place is 2^-8 there: half of it, and the float32 error.
HALF_TOLERANCE = 2.0**-9 + TOLERANCE


@dataclass(frozen=True)
class PoolCase:
    """What the operator gets; maps in float32 or float16."""

    maps: NDArray[Any]  # [B, F, H, W]
    rois: NDArray[np.float32]  # [B, K, 4] in pixels of the image
    output_size: tuple[int, int]
    spatial_scale: float


def generated_pool(seed: int, *, rois: int = 12) -> PoolCase:
    """One or two images; RoIs inside, over the border and outside, without area, inverted, and not finite.

    Values lie on a grid of 1/64 within -4..4, which float16 holds exactly.
    """
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 3)), int(rng.choice((1, 5, 33))), int(rng.choice((1, 13))), int(rng.choice((2, 17))))
    scale = SCALES[seed % len(SCALES)]
    maps = rng.integers(-256, 257, shape) / 64
    return PoolCase(
        maps=maps.astype(np.float16 if seed % 2 else np.float32),
        rois=(_rois(rng, shape[0], rois, height=shape[2], width=shape[3]) / np.float32(scale)).astype(np.float32),
        output_size=BINS[seed % len(BINS)],
        spatial_scale=scale,
    )


def _rois(rng: np.random.Generator, images: int, count: int, *, height: int, width: int) -> NDArray[np.float32]:
    """In pixels of the map; every eighth is a corner case."""
    size = np.array([width, height])
    corner = rng.uniform(-0.3, 1.1, (images, count, 2)) * size
    boxes = np.concatenate([corner, corner + rng.uniform(0, 0.8, corner.shape) * size], axis=2)
    corners = np.array(
        [
            [1, 1, 1, 4],  # no width
            [4, 1, 1, 4],  # inverted
            [np.nan, 1, 3, 4],
            [0, 0, np.inf, 4],
            [-1e9, -1e9, 1e9, 1e9],  # the map is a speck in it
            [1, 1, 1.001, 1.001],  # a bin within a pixel
            [500, 0, 600, 4],  # outside
            [0, 0, width - 1, height - 0.5],  # ends on the last pixel, and beyond it
        ]
    )
    for place, box in enumerate(corners[: max(0, count)]):
        boxes[place % images, place % max(1, count)] = box
    return boxes.astype(np.float32)


def expected(case: PoolCase) -> NDArray[np.float64]:
    """``[B, K, F, P, Q]`` in float64, with coordinates on the map as float32 has them."""
    images, count = case.rois.shape[:2]
    # The product with the scale, a power of two, is exact; the RoIs of infinite size give 0.
    pooled = prroi_pool(
        torch.from_numpy(case.maps.astype(np.float64)),
        torch.from_numpy(case.rois.reshape(-1, 4).astype(np.float64)),
        torch.arange(images).repeat_interleave(count),
        case.output_size,
        case.spatial_scale,
    )
    answer: NDArray[np.float64] = pooled.reshape(images, count, case.maps.shape[1], *case.output_size).numpy()
    return answer


def assert_pooled(found: NDArray[Any], case: PoolCase) -> None:
    """Within the rounding of float32, and of float16 where the maps are that."""
    assert found.dtype == case.maps.dtype
    tolerance = HALF_TOLERANCE if case.maps.dtype == np.float16 else TOLERANCE
    np.testing.assert_allclose(found.astype(np.float64), expected(case), rtol=0, atol=tolerance)


def pool_bytes(case: PoolCase) -> bytes:
    """A call as `trt_plugins/tests/calls.h` reads it."""
    counts = (*case.maps.shape, case.rois.shape[1], *case.output_size, int(case.maps.dtype == np.float16))
    head = np.array(counts, np.int32).tobytes() + np.float32(case.spatial_scale).tobytes()
    return head + case.maps.tobytes() + case.rois.tobytes()


def pool_answers(data: bytes, cases: list[PoolCase]) -> list[NDArray[Any]]:
    """The output of every call."""
    found = []
    for case in cases:
        shape = (*case.rois.shape[:2], case.maps.shape[1], *case.output_size)
        values = np.frombuffer(data, case.maps.dtype, int(np.prod(shape))).reshape(shape)
        data = data[values.nbytes :]
        found.append(values)
    assert data == b""
    return found

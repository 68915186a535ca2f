"""Precise RoI pooling, by matrix products and by the own kernel, beside RoIAlign; shapes as in prroi_pooling.py."""

from argparse import Namespace

import torch
from torch import Tensor

from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.rounds import in_turns
from benchmarks.gpu.setup import Setup
from benchmarks.prroi_pooling import (
    BINS,
    aligned,
    both_backward,
    forward,
    levels_of,
    maps_backward,
    precise,
    pyramid_and_rois,
)
from calibox_export.kernels.pooling import PoolingLibrary

THEIRS = "RoIAlign"
_SHAPES = {"size": (800, 1344), "batch": 2, "rois": 512, "features": 256, "strides": [8, 16, 32]}
_SMALL = {"size": (64, 96), "batch": 2, "rois": 6, "features": 8, "strides": [8, 16, 32]}


def time_pooling(setup: Setup, outcome: Outcome) -> None:
    """Forward, and forward and backward; the own kernel has no backward pass."""
    options = Namespace(**setup.pick(_SHAPES, _SMALL), device=setup.device)
    torch.manual_seed(0)
    maps, rois, image = pyramid_and_rois(options)
    library = setup.pooling()

    def theirs(levels: list[Tensor], boxes: Tensor) -> Tensor:
        return aligned(levels, boxes, image, options.strides)

    def products(levels: list[Tensor], boxes: Tensor) -> Tensor:
        return precise(levels, boxes, image, options.strides)

    def kernel(levels: list[Tensor], boxes: Tensor) -> Tensor:
        return by_kernel(setup, library, levels, boxes, options.strides)

    dense = [level.contiguous() for level in maps]
    torch.testing.assert_close(kernel(dense, rois), products(maps, rois), rtol=0, atol=1e-4)
    forwards = {
        THEIRS: forward(theirs, maps, rois),
        "matrix products": forward(products, maps, rois),
        "kernel, maps channels-first": forward(kernel, dense, rois),
        "kernel, and copying the maps so": forward(kernel, maps, rois),
    }
    backwards = {
        THEIRS: maps_backward(theirs, maps, rois),
        "matrix products": maps_backward(products, maps, rois),
        "matrix products, gradients of the RoIs as well": both_backward(products, maps, rois),
    }
    outcome.sentences.append(_described(options))
    for title, steps in (("Forward", forwards), ("Forward and backward", backwards)):
        rows = outcome.table(title, "", "ms, median [range]", "RoIAlign's time by this")
        times = in_turns(setup, steps, rounds=setup.pick(30, 2))
        outcome.figures |= {f"{title}, {name}": one.rounds for name, one in times.items()}
        rows += [[name, one.cell(), times[THEIRS].over(one)] for name, one in times.items()]
        setup.keep(outcome)


def _described(options: Namespace) -> str:
    height, width = options.size
    return (
        f"{options.batch} images of {height}x{width}, {options.rois} RoIs each, {options.features} features, strides "
        f"{options.strides}, {BINS}x{BINS} bins, float32, maps channels-last unless a row says otherwise."
    )


def by_kernel(setup: Setup, library: PoolingLibrary, levels: list[Tensor], boxes: Tensor, strides: list[int]) -> Tensor:
    """A call per level, boxes of other levels without area there, as a bundle's graph does it; ``[R, F, P, Q]``."""
    images = len(levels[0])
    level = levels_of(boxes, strides)
    pooled: list[Tensor] = []
    for number, (features, stride) in enumerate(zip(levels, strides, strict=True)):
        here = torch.where((level == number)[:, None], boxes, 0).unflatten(0, (images, -1))
        pooled.append(library.pool(features, here, (BINS, BINS), 1 / stride, stream=setup.stream()))
    return torch.stack(pooled).sum(dim=0).flatten(0, 1)

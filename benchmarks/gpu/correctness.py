"""The kernels against numpy and torch in float64: every index and label equal, ties included."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.cases import HALF, answers, case_of, compare, one_quality_per_anchor, run, to_device
from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.setup import Setup
from calibox_core.suppression import select_candidates
from calibox_export.kernels.library import FOLDER_VARIABLE, Device, KernelLibrary, output_shapes
from calibox_export.kernels.torch_operator import calibrated_nms, run_on_tensors
from tests.support.nms_answers import OFF_GRID_SCORE_TOLERANCE, assert_reference_answers
from tests.support.nms_images import NmsCase, PlainAttributes, scattered_image, stacked
from tests.support.pool_cases import PoolCase, assert_pooled, generated_pool

TOP_K = (1, 31, 32, 33, 300, 1000, 2048, 3840)
CLASSES = (1, 80)
BATCHES = (1, 8, 32)


def compare_with_references(setup: Setup, outcome: Outcome) -> None:
    """All kinds of cases; a difference fails the step, with the first one's text."""
    library = setup.kernels()
    assert library.device == (Device.HOST if setup.host else Device.CUDA)
    rows = outcome.table("Cases whose answers are the reference's", "K", "classes", "batch", "cases", "equal")
    wrong: list[str] = []
    for top_k, classes, batch in grid(setup):
        seeds = _seeds(setup, top_k, batch)
        cases = [case_of(seed, top_k=top_k, classes=classes, batch=batch) for seed in seeds]
        rows.append([top_k, classes, batch, *_count(wrong, cases, lambda case: check(setup, library, case))])
        setup.keep(outcome)
    more = outcome.table("More kinds", "kind", "cases", "equal")
    number = setup.pick(100, 5)
    small = [case_of(seed, top_k=33, classes=3, batch=2) for seed in range(number)]
    per_anchor = [one_quality_per_anchor(case) for case in small]
    for name, half in (("boxes", HALF[:1]), ("p and q", HALF[1:]), ("all three", HALF)):
        row = _count(wrong, per_anchor, lambda case, half=half: check(setup, library, case, half=half))
        more.append([f"{name} in float16, one q per anchor", *row])
    more.append(
        ["scores on no grid", *_count(wrong, _scattered(number), lambda case: check_scattered(setup, library, case))]
    )
    more.append(
        ["nothing: no image, no anchor, no class", *_count(wrong, NOTHING, lambda s: check_nothing(setup, library, s))]
    )
    more.append(["the torch operator", *_count(wrong, small[:3], lambda case: check_operator(setup, case))])
    pools = [generated_pool(seed) for seed in range(number)]
    more.append(["Precise RoI pooling", *_count(wrong, pools, lambda case: check_pool(setup, case))])
    if wrong:
        raise AssertionError(f"{len(wrong)} cases differ; the first:\n{wrong[0]}")


def grid(setup: Setup) -> Iterable[tuple[int, int, int]]:
    """K, classes and batch."""
    for top_k in setup.pick(TOP_K, (1, 33)):
        for classes in CLASSES:
            for batch in setup.pick(BATCHES, (1, 2)):
                yield top_k, classes, batch


def _seeds(setup: Setup, top_k: int, batch: int) -> range:
    # The reference takes about 60 microseconds per candidate: up to twelve cases where there are few, one where many.
    first = top_k + batch  # so that every size begins with other attributes
    return range(first, first + setup.pick(max(1, min(12, 12_000 // (top_k * batch))), 1))


def _count(wrong: list[str], cases: Iterable[Any], check_one: Callable[[Any], None]) -> tuple[int, int]:
    """How many there are, and how many are right; the others' texts go to ``wrong``."""
    done = right = 0
    for case in cases:
        done += 1
        try:
            check_one(case)
            right += 1
        except AssertionError as difference:
            wrong.append(str(difference))
    return done, right


def check(setup: Setup, library: KernelLibrary, case: NmsCase, *, half: tuple[str, ...] = ()) -> None:
    """Every output."""
    compare(setup, run(setup, library, case, half=half), case)


def _scattered(count: int) -> Iterable[NmsCase]:
    """Images in which no two keys lie within 1e-5 of each other, so that every logarithm orders them alike."""
    seed = 0
    while count:
        image = scattered_image(np.random.default_rng(seed), columns=(1, 4)[seed % 2])
        seed += 1
        everything = PlainAttributes(pre_nms_top_k=200)
        keys = select_candidates(image.boxes, image.p, image.q, image.exponents, everything).keys
        if (np.diff(-keys) > 1e-5).all():
            count -= 1
            yield NmsCase((image,), PlainAttributes(pre_nms_top_k=(20, 300)[count % 2]))


def check_scattered(setup: Setup, library: KernelLibrary, case: NmsCase) -> None:
    """Every output, scores with the tolerance of three logarithms."""
    assert_reference_answers(run(setup, library, case), case, score_tolerance=OFF_GRID_SCORE_TOLERANCE)


NOTHING = ((0, 12, 3), (0, 0, 3), (2, 0, 3), (2, 5, 0), (1, 0, 0))


def check_nothing(setup: Setup, library: KernelLibrary, sizes: tuple[int, int, int]) -> None:
    """Padding, and nothing else."""
    batch, anchors, classes = sizes
    shapes = ((batch, anchors, 4), (batch, anchors, classes), (batch, anchors, 1), (batch, 3), (batch,), (batch,))
    attributes = PlainAttributes(pre_nms_top_k=5, max_detections=4)
    given = tuple(torch.ones(shape, device=setup.device) for shape in shapes)
    outputs = run_on_tensors(library, given, attributes, stream=setup.stream())
    for (name, shape), found in zip(output_shapes(batch, attributes).items(), outputs, strict=True):
        padding = -1 if name.endswith("labels") else 0
        assert tuple(found.shape) == shape, name
        assert bool((found == padding).all()), name


def check_operator(setup: Setup, case: NmsCase) -> None:
    """`torch.ops.calibox.calibrated_nms`, which on the CPU is the reference itself."""
    os.environ[FOLDER_VARIABLE] = str(setup.build)
    outputs = calibrated_nms(*to_device(stacked(case), setup.device), **vars(case.attributes))
    compare(setup, answers(outputs), case)


def check_pool(setup: Setup, case: PoolCase) -> None:
    """Within rounding."""
    assert_pooled(pool(setup, case), case)


def pool(setup: Setup, case: PoolCase) -> NDArray[Any]:
    """The kernel's output."""
    maps, rois = (torch.from_numpy(values).to(setup.device) for values in (case.maps, case.rois))
    found = setup.pooling().pool(maps, rois, case.output_size, case.spatial_scale, stream=setup.stream())
    values: NDArray[Any] = found.cpu().numpy()
    return values

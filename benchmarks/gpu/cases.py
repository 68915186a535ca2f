"""Inputs of CalibratedNMS by sizes, and the kernels' answers to them on whichever device."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.setup import Setup
from calibox_core.suppression import OutScore
from calibox_export.kernels.library import INPUT_NAMES, OUTPUT_NAMES, KernelLibrary
from calibox_export.kernels.torch_operator import prepare
from tests.support.nms_answers import SCORE_TOLERANCE, assert_reference_answers
from tests.support.nms_images import (
    EXPONENTS,
    IOU_THRESHOLDS,
    P_GRID,
    Q_GRID,
    SCORE_THRESHOLDS,
    NmsCase,
    NmsImage,
    PlainAttributes,
    random_boxes,
    spoil,
    stacked,
)

HALF = ("boxes", "p", "q")
# log(2^-126), for q = 0, is -87.3, whose last place is 7.6e-6; a GPU's logarithm may be one such place off: of it the
# geometric fusion takes half, and its key has another 3.8e-6: so much, relatively, of the exponential.
DEVICE_SCORE_TOLERANCE = 2e-5


def case_of(seed: int, *, top_k: int, classes: int, batch: int) -> NmsCase:
    """Images with parameters of their own; every third case has NaN and infinities, and p of 0 or more ties than K.

    All fusions, thresholds and reported scores come up as seeds and images are counted on. One class has more anchors
    than K, so that K cuts; 80 classes have enough pairs for it.
    """
    rng = np.random.default_rng((seed, top_k, classes, batch))
    anchors = top_k + 50 if classes == 1 else max(40, top_k // 8)
    images = tuple(_image(rng, seed + place, anchors, classes) for place in range(batch))
    attributes = PlainAttributes(
        out_score=tuple(OutScore)[seed % 3],
        class_agnostic=bool(seed // 3 % 2),
        candidate_floor=(0.001, 0.0, 2.0**-6)[seed % 3],
        pre_nms_top_k=top_k,
        max_detections=(100, 7, 1)[seed // 2 % 3],
    )
    return NmsCase(tuple(spoil(rng, image) for image in images) if seed % 3 == 2 else images, attributes)


def _image(rng: np.random.Generator, number: int, anchors: int, classes: int) -> NmsImage:
    columns = classes if number % 2 else 1
    return NmsImage(
        boxes=random_boxes(rng, anchors, field=(40, 400, 8)[number % 3]),
        p=rng.choice(P_GRID, (anchors, classes)),
        q=np.repeat(rng.choice(Q_GRID, (anchors, columns)), classes // columns, axis=1),
        exponents=EXPONENTS[number % len(EXPONENTS)],
        score_threshold=SCORE_THRESHOLDS[number % len(SCORE_THRESHOLDS)],
        iou_threshold=IOU_THRESHOLDS[number // 2 % len(IOU_THRESHOLDS)],
    )


def one_quality_per_anchor(case: NmsCase) -> NmsCase:
    """The case with q ``[A, 1]``."""
    return replace(case, images=tuple(replace(image, q=image.q[:, :1]) for image in case.images))


def to_device(inputs: dict[str, NDArray[Any]], device: str, *, half: tuple[str, ...] = ()) -> tuple[Tensor, ...]:
    """In the order of `library.INPUT_NAMES`; those named in ``half`` in float16."""
    tensors = {name: torch.from_numpy(inputs[name]).to(device) for name in INPUT_NAMES}
    return tuple(tensor.half() if name in half else tensor for name, tensor in tensors.items())


def answers(outputs: list[Tensor]) -> dict[str, NDArray[Any]]:
    """By name, as numpy arrays; waits for the device."""
    return {name: tensor.cpu().numpy() for name, tensor in zip(OUTPUT_NAMES, outputs, strict=True)}


def compare(setup: Setup, found: dict[str, NDArray[Any]], case: NmsCase) -> None:
    """Every output with the reference's.

    Raises:
        AssertionError: one differs.
    """
    tolerance = setup.pick(DEVICE_SCORE_TOLERANCE, SCORE_TOLERANCE)
    assert_reference_answers(found, case, score_tolerance=tolerance)


def run(setup: Setup, library: KernelLibrary, case: NmsCase, *, half: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """The kernels' outputs by name."""
    call = prepare(library, to_device(stacked(case), setup.device, half=half), case.attributes)
    for output in call.outputs:  # so that whatever a kernel leaves out is seen
        output.fill_(-7)
    call.launch(stream=setup.stream())
    return answers(call.outputs)

"""Generated calls of the operator, and the files by which programs of `trt_plugins/tests` get them and answer."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.ranking import Exponents
from calibox_core.suppression import OutScore
from calibox_export.kernels.library import INPUT_NAMES, INTEGER_OUTPUTS, OUTPUT_NAMES, output_shapes
from tests.support.nms_images import (
    EXPONENTS,
    P_GRID,
    Q_GRID,
    NmsCase,
    NmsImage,
    PlainAttributes,
    random_boxes,
    spoil,
    stacked,
)


def generated(seed: int) -> NmsCase:
    """One or two images; every kind of attribute comes up, and every third case has NaN and infinities."""
    rng = np.random.default_rng(seed)
    anchors, classes = int(rng.choice((1, 33, 70, 130))), int(rng.choice((1, 3, 20)))
    columns = int(rng.choice((1, classes)))
    images = [random_image(rng, anchors, classes, columns) for _ in range(rng.integers(1, 3))]
    attributes = PlainAttributes(
        out_score=tuple(OutScore)[seed % 3],
        class_agnostic=bool(seed % 2),
        pre_nms_top_k=int(rng.choice((1, 31, 33, 100, 300))),
        max_detections=int(rng.choice((3, 50))),
    )
    return NmsCase(tuple(spoil(rng, image) if seed % 3 == 0 else image for image in images), attributes)


def random_image(rng: np.random.Generator, anchors: int, classes: int, columns: int) -> NmsImage:
    """Scores on the grid of ties."""
    exponents: Exponents = EXPONENTS[rng.integers(len(EXPONENTS))]
    return NmsImage(
        boxes=random_boxes(rng, anchors, field=int(rng.choice((8, 60)))),
        p=rng.choice(P_GRID, (anchors, classes)),
        q=rng.choice(Q_GRID, (anchors, columns)),
        exponents=exponents,
        score_threshold=0.07,
        iou_threshold=0.3,
    )


def call_bytes(case: NmsCase) -> bytes:
    """A call as `trt_plugins/tests/calls.h` reads it."""
    inputs, attributes = stacked(case), case.attributes
    batch, anchors, classes = inputs["p"].shape
    sizes = (batch, anchors, classes, inputs["q"].shape[2], 0, 0)
    head = (*sizes, tuple(OutScore).index(attributes.out_score), int(attributes.class_agnostic))
    floor = np.float32(attributes.candidate_floor).tobytes()
    tail = np.array((attributes.pre_nms_top_k, attributes.max_detections), np.int32).tobytes()
    return np.array(head, np.int32).tobytes() + floor + tail + b"".join(inputs[name].tobytes() for name in INPUT_NAMES)


def answers(data: bytes, cases: list[NmsCase]) -> list[dict[str, NDArray[Any]]]:
    """The outputs of every call."""
    found: list[dict[str, NDArray[Any]]] = []
    for case in cases:
        found.append({})
        for name, shape in output_shapes(len(case.images), case.attributes).items():
            kind: type[np.int32 | np.float32] = np.int32 if name in INTEGER_OUTPUTS else np.float32
            values = np.frombuffer(data, kind, int(np.prod(shape))).reshape(shape)
            data = data[values.nbytes :]
            found[-1][name] = values
        assert tuple(found[-1]) == OUTPUT_NAMES
    assert data == b""
    return found

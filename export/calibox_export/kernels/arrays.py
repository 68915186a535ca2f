"""CalibratedNMS on numpy arrays by the host build: the kernels that ship, run on the CPU."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.suppression import Attributes
from calibox_export.kernels.library import (
    FLOAT16,
    FLOAT32,
    INPUT_NAMES,
    INTEGER_OUTPUTS,
    KernelLibrary,
    Sizes,
    output_shapes,
)

_ALIGNMENT = 256  # of a workspace; CUDA's own allocations have it


def run_on_arrays(
    library: KernelLibrary, inputs: Mapping[str, NDArray[Any]], attributes: Attributes
) -> dict[str, NDArray[Any]]:
    """All outputs by name.

    Args:
        library: a host build.
        inputs: boxes ``[B, A, 4]``, p ``[B, A, C]`` and q ``[B, A, 1]`` or ``[B, A, C]`` in float32 or float16 (p and q
            alike), fusion ``[B, 3]``, score_threshold and iou_threshold ``[B]`` in float32.
        attributes: of the operator.

    Raises:
        KernelError: something is outside the kernels' limits.
    """
    dense = {name: np.ascontiguousarray(inputs[name]) for name in INPUT_NAMES}
    sizes = _sizes(dense)
    outputs = {
        name: np.empty(shape, np.int32 if name in INTEGER_OUTPUTS else np.float32)
        for name, shape in output_shapes(sizes.batch, attributes).items()
    }
    space = np.empty(library.workspace_bytes(sizes, attributes) + _ALIGNMENT, np.uint8)
    start = -space.ctypes.data % _ALIGNMENT
    library.launch(
        sizes,
        attributes,
        inputs={name: values.ctypes.data for name, values in dense.items()},
        outputs={name: values.ctypes.data for name, values in outputs.items()},
        workspace=(space.ctypes.data + start, len(space) - _ALIGNMENT),
    )
    return outputs


def _sizes(inputs: Mapping[str, NDArray[Any]]) -> Sizes:
    batch, anchors, classes = inputs["p"].shape
    return Sizes(
        batch,
        anchors,
        classes,
        quality_columns=inputs["q"].shape[2],
        box_type=_element(inputs["boxes"]),
        score_type=_element(inputs["p"]),
    )


def _element(values: NDArray[Any]) -> int:
    return FLOAT16 if values.dtype == np.float16 else FLOAT32

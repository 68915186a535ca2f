"""CalibratedNMS alone in a graph, run by ONNX Runtime or by OpenVINO."""

from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from calibox_core.nms import NmsAttributes
from calibox_core.operator_names import INPUTS, OUTPUTS
from calibox_export.engines.openvino_ir import openvino_model
from calibox_export.graph import operator_model


@lru_cache(maxsize=256)
def _session(attributes: NmsAttributes, quality_per_class: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # Log rounds alike in a whole tensor only where no threads share it
    model = operator_model(attributes, quality_per_class=quality_per_class)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run_operator(
    attributes: NmsAttributes, inputs: dict[str, NDArray[Any]], *, quality_per_class: bool
) -> dict[str, NDArray[Any]]:
    """All outputs by name."""
    session = _session(attributes, quality_per_class)
    values = session.run(list(OUTPUTS), {f"in_{name}": np.ascontiguousarray(inputs[name]) for name in INPUTS})
    return dict(zip(OUTPUTS, values, strict=True))


@lru_cache(maxsize=64)
def _request(attributes: NmsAttributes, quality_per_class: bool, ties_in_order: bool) -> Any:
    import openvino as ov

    graph = operator_model(attributes, quality_per_class=quality_per_class)
    model = openvino_model(graph, ties_in_order=ties_in_order)
    # Without the hint a CPU that can would compute in bfloat16.
    return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()


def run_operator_in_openvino(
    attributes: NmsAttributes,
    inputs: dict[str, NDArray[Any]],
    *,
    quality_per_class: bool,
    ties_in_order: bool = True,
) -> dict[str, NDArray[Any]]:
    """All outputs by name; without ``ties_in_order`` in the form that engines are built in."""
    request = _request(attributes, quality_per_class, ties_in_order)
    found = request.infer({f"in_{name}": np.ascontiguousarray(inputs[name]) for name in INPUTS})
    return {name: found[position].copy() for position, name in enumerate(OUTPUTS)}

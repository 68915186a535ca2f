"""CalibratedNMS alone in a graph, run by ONNX Runtime."""

from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from calibox_core.nms import NmsAttributes
from calibox_export.calibrated_nms import (
    DOMAIN,
    DOMAIN_VERSION,
    INPUTS,
    OUTPUTS,
    calibrated_nms_function,
    calibrated_nms_node,
)
from calibox_export.graph import IR_VERSION, OPSET, contract_outputs

INPUT_DIMS: dict[str, list[str | int]] = {
    "boxes": ["batch", "anchors", 4],
    "p": ["batch", "anchors", "classes"],
    "q": ["batch", "anchors", "qualities"],
    "fusion": ["batch", 3],
    "score_threshold": ["batch"],
    "iou_threshold": ["batch"],
}


def operator_model(attributes: NmsAttributes, *, quality_per_class: bool) -> onnx.ModelProto:
    """A checked model that holds only the operator; its inputs are called `in_boxes`, `in_p`, ..."""
    inputs = [f"in_{name}" for name in INPUTS]
    graph = helper.make_graph(
        [calibrated_nms_node(attributes, inputs=inputs, outputs=OUTPUTS)],
        "operator",
        [helper.make_tensor_value_info(f"in_{name}", TensorProto.FLOAT, INPUT_DIMS[name]) for name in INPUTS],
        contract_outputs(attributes),
    )
    model = helper.make_model(
        graph,
        functions=[calibrated_nms_function(attributes, quality_per_class=quality_per_class)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


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

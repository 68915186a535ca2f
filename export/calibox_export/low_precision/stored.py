"""What a graph computes in, and whether something else can be made of it."""

import onnx
from onnx import TensorProto

from calibox_core.engines import EngineError
from calibox_core.precision import Precision

_STORED: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def stored_precision(model: onnx.ModelProto) -> Precision:
    """What a graph computes in, by its operators and its weights."""
    if any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        return "int8"
    return next((_STORED[t.data_type] for t in model.graph.initializer if t.data_type in _STORED), "fp32")


def check_fp32(model: onnx.ModelProto, *, but: Precision | None = None) -> Precision:
    """The precision that a graph is stored in.

    Args:
        model: of a bundle.
        but: is allowed besides fp32.

    Raises:
        EngineError: it is another one.
    """
    stored = stored_precision(model)
    if stored not in ("fp32", but):
        raise EngineError(
            f"this bundle is in {stored} already: build it with --precision {stored}, or take the one in fp32"
        )
    return stored

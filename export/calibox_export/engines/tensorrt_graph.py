"""A bundle's graph as TensorRT takes it, in the precision that is asked for."""

import onnx
from onnx import TensorProto, helper

from calibox_core.engines import EngineError
from calibox_core.precision import Precision
from calibox_export.low_precision.half import to_half
from calibox_export.low_precision.int8 import with_signed_inputs
from calibox_export.low_precision.stored import check_fp32

_FLOAT_IMAGES = "images/float32"


def tensorrt_graph(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A copy to be parsed as a strongly typed network.

    Of a bundle in float32, fp16 and bf16 are made here; a bundle of another precision goes through as it is, but INT8
    with signed QuantizeLinear and DequantizeLinear on the inputs of layers alone, which is what TensorRT reads.

    Raises:
        EngineError: the bundle is of another precision.
        ExportError: no layer can compute in half precision.
    """
    stored = check_fp32(model, but=precision)
    if stored == "fp32" and precision in ("fp16", "bf16"):
        copy = to_half(model, "fp16" if precision == "fp16" else "bf16")
    elif stored == "int8":
        copy = with_signed_inputs(model)
    elif stored == precision:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
    else:
        raise EngineError(
            "TensorRT takes int8 from the graph, and this bundle has none: make one in int8 with `calibox quantize`, "
            "and build that"
        )
    _cast_images_first(copy.graph)
    _write_out_hardswish(copy.graph)
    return copy


def _cast_images_first(graph: onnx.GraphProto) -> None:
    """TensorRT does nothing with uint8 but cast it, and bundles move the channels first; 0..255 are exact in float."""
    carried = {"images"}
    for node in graph.node:
        if node.op_type != "Cast" and carried & set(node.input):
            carried |= set(node.output)
        for k, name in enumerate(node.input):
            if name == "images":
                node.input[k] = _FLOAT_IMAGES
    kept = [value for value in graph.value_info if value.name not in carried]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    graph.node.insert(
        0, helper.make_node("Cast", ["images"], [_FLOAT_IMAGES], name=_FLOAT_IMAGES, to=TensorProto.FLOAT)
    )


def _write_out_hardswish(graph: onnx.GraphProto) -> None:
    """As x * HardSigmoid(x), which is how ONNX defines it: TensorRT's parser has no HardSwish in bfloat16."""
    nodes = [written for node in graph.node for written in _without_hardswish(node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _without_hardswish(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    if node.op_type != "HardSwish":
        return [node]
    (x,), gate = node.input, f"{node.output[0]}/gate"
    return [
        helper.make_node("HardSigmoid", [x], [gate], name=gate, alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", [x, gate], node.output, name=node.name),
    ]

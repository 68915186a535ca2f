"""A bundle's graph on its way to TensorRT."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, parser

from calibox_core.engines import EngineError
from calibox_core.nms import NmsAttributes
from calibox_core.precision import Precision
from calibox_export.engines.tensorrt_graph import tensorrt_graph
from calibox_export.graph import attach_calibrated_nms
from calibox_export.low_precision.half import to_half
from calibox_export.low_precision.int8 import to_int8
from calibox_export.low_precision.stored import stored_precision
from calibox_export.parity import Setting, graph_feeds, open_graph
from tests.support.bundles import tiny_network

ATTRIBUTES = NmsAttributes(pre_nms_top_k=30, max_detections=9)


def bundle_graph(*, hardswish: bool = False) -> onnx.ModelProto:
    """The tiny network as torch writes networks: the channels are moved while the images are still uint8."""
    network = tiny_network()
    nodes = {node.output[0]: node for node in network.graph.node}
    moved = parser.parse_graph("""
      g () => () {
        planes_u8 = Transpose <perm = [0, 3, 1, 2]> (images)
        pixels = Cast <to = 1> (planes_u8)
      }""").node
    nodes["planes"].CopyFrom(helper.make_node("Identity", ["unit"], ["planes"]))
    if hardswish:
        nodes["features"].op_type = "HardSwish"
    network.graph.node.remove(nodes["pixels"])
    for node in reversed(moved):
        network.graph.node.insert(0, node)
    return attach_calibrated_nms(network, ATTRIBUTES)


def test_uint8_is_cast_before_anything_else_and_the_answers_stay() -> None:
    before = bundle_graph()
    after = tensorrt_graph(before, "fp32")
    onnx.checker.check_model(after, full_check=True)
    assert [node.op_type for node in after.graph.node if "images" in node.input] == ["Cast"]
    assert list(after.graph.input) == list(before.graph.input)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    feeds = graph_feeds(images, [Setting((1, 0, 0), 0.1, 0.5)] * 2)
    expected, found = (open_graph(model.SerializeToString())(feeds) for model in (before, after))
    assert expected["num_detections"].min() > 0
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_hardswish_is_written_out(precision: Precision) -> None:
    before = bundle_graph(hardswish=True)
    after = tensorrt_graph(before, precision)
    onnx.checker.check_model(after, full_check=True)
    assert "HardSwish" not in {node.op_type for node in after.graph.node}
    if precision == "bf16":  # of which ONNX Runtime has no convolutions
        return
    feeds = graph_feeds(np.full((1, 96, 128, 3), 200, np.uint8), [Setting((1, 0, 0), 0.0, 0.5)])
    expected, found = (open_graph(model.SerializeToString())(feeds) for model in (before, after))
    tolerance = {"fp32": 1e-6, "fp16": 0.01}[precision]
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=tolerance)


def test_half_precision_is_made_of_a_bundle_in_float32() -> None:
    kinds = {tensor.data_type for tensor in tensorrt_graph(bundle_graph(), "bf16").graph.initializer}
    assert TensorProto.BFLOAT16 in kinds
    assert stored_precision(bundle_graph()) == "fp32"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_bundle_in_half_precision_goes_through_as_it_is(precision: Precision) -> None:
    half = to_half(bundle_graph(), "fp16" if precision == "fp16" else "bf16")
    assert stored_precision(half) == precision
    assert list(tensorrt_graph(half, precision).graph.initializer) == list(half.graph.initializer)
    with pytest.raises(EngineError, match=f"in {precision} already: build it with --precision {precision}"):
        tensorrt_graph(half, "fp32")


def test_a_bundle_in_int8_goes_through_with_signed_q_and_dq() -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    quantised = to_int8(bundle_graph(), [graph_feeds(images, [Setting((1, 0, 0), 0.1, 0.5)])])
    after = tensorrt_graph(quantised, "int8")
    onnx.checker.check_model(after, full_check=True)
    assert stored_precision(after) == "int8"
    kinds = {tensor.data_type for tensor in after.graph.initializer}
    assert TensorProto.INT8 in kinds
    assert TensorProto.UINT8 not in kinds
    for other in ("fp32", "fp16"):
        with pytest.raises(EngineError, match="in int8 already: build it with --precision int8"):
            tensorrt_graph(quantised, other)


def test_int8_of_a_bundle_in_float32_is_refused() -> None:
    with pytest.raises(EngineError, match="make one in int8 with `calibox quantize`"):
        tensorrt_graph(bundle_graph(), "int8")

"""A bundle's graph in half precision: which tensors are half, what stays float32, and what is refused."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser, shape_inference
from onnx.reference import ReferenceEvaluator

from calibox_core.nms import NmsAttributes
from calibox_export.errors import ExportError
from calibox_export.graph import attach_calibrated_nms
from calibox_export.low_precision.half import Half, to_half
from calibox_export.parity import Setting, graph_feeds, open_graph
from tests.support.bundles import tiny_network
from tests.support.iou_net_graph import iou_net_model

ROOT = Path(__file__).resolve().parents[3]
ATTRIBUTES = NmsAttributes(pre_nms_top_k=30, max_detections=9)
PRECISIONS: list[Half] = ["fp16", "bf16"]
KIND = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
# Half a unit in the last place is 2^-12 in float16 and 2^-9 in bfloat16; a dozen roundings in a row, values up to 8.
SCORE_TOLERANCE = {"fp16": 0.003, "bf16": 0.02}
BOX_TOLERANCE = {"fp16": 0.1, "bf16": 0.8}  # pixels


def branched_network(*, stem: float = 0.1, extra: str = "", features: str = "gated") -> onnx.ModelProto:
    """A stem, a gate over the whole map, and a layer each for classes, boxes and qualities; A = 4, C = 2."""
    model = parser.parse_model(f"""
      <ir_version: 10, opset_import: ["" : 20]>
      branched (uint8[batch, 16, 16, 3] images, float[batch, 3] fusion) => (
          float[batch, 4, 4] boxes, float[batch, 4, 2] p, float[batch, 4, 1] q) {{
        pixels = Cast <to = 1> (images)
        planes = Transpose <perm = [0, 3, 1, 2]> (pixels)
        raw_features = Conv <kernel_shape = [8, 8], strides = [8, 8]> (planes, stem)
        features = Relu(raw_features)
        half_stored = Constant <value = float {{0.5}}> ()
        level = Mul(features, half_stored)
        map_mean = ReduceMean(level, map_axes)
        gate_raw = Conv <kernel_shape = [1, 1]> (map_mean, gate)
        gate_open = Sigmoid(gate_raw)
        gated = Mul(level, gate_open)
        {extra}
        class_raw = Conv <kernel_shape = [1, 1]> ({features}, class_weight)
        box_raw = Conv <kernel_shape = [1, 1]> ({features}, box_weight)
        quality_raw = Conv <kernel_shape = [1, 1]> ({features}, quality_weight)
        class_cells = Reshape(class_raw, cells_2)
        class_rows = Transpose <perm = [0, 2, 1]> (class_cells)
        p = Sigmoid(class_rows)
        quality_cells = Reshape(quality_raw, cells_1)
        quality_rows = Transpose <perm = [0, 2, 1]> (quality_cells)
        q = Sigmoid(quality_rows)
        box_cells = Reshape(box_raw, cells_4)
        box_rows = Transpose <perm = [0, 2, 1]> (box_cells)
        best = ReduceMax <keepdims = 0> (p, last_axis)
        rank, order = TopK <axis = 1> (best, four)
        order_column = Unsqueeze(order, last_axis)
        order_4 = Concat <axis = 2> (order_column, order_column, order_column, order_column)
        boxes = GatherElements <axis = 1> (box_rows, order_4)
      }}""")
    rng = np.random.default_rng(0)
    weights = {
        "stem": np.full((4, 3, 8, 8), stem),
        "gate": rng.normal(size=(4, 4, 1, 1)),
        "class_weight": rng.normal(size=(2, 4, 1, 1)),
        "box_weight": rng.normal(size=(4, 4, 1, 1)),
        "quality_weight": rng.normal(size=(1, 4, 1, 1)),
        "huge": np.array(1e6),
        "least": np.array(1e-12),
    }
    shapes = {"map_axes": [2, 3], "last_axis": [2], "four": [4]} | {f"cells_{n}": [0, n, -1] for n in (1, 2, 4)}
    tensors = {name: array.astype(np.float32) for name, array in weights.items()}
    tensors |= {name: np.array(shape, np.int64) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    return model


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Of every tensor that has one, without the network's prefix."""
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
    found |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    return {name.removeprefix("network/"): kind for name, kind in found.items()}


def half_of(network: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    return to_half(attach_calibrated_nms(network, ATTRIBUTES, metadata={"name": "tiny"}), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_network_is_half_and_what_settles_the_answer_is_not(precision: Half) -> None:
    found = types(half_of(branched_network(), precision))
    half = {name.removesuffix(f"/{precision}") for name, kind in found.items() if kind == KIND[precision]}
    assert half == {
        *("planes", "stem", "raw_features", "features", "half_stored", "level", "gate", "gate_raw", "gate_open"),
        *("map_mean", "gated", "class_weight", "class_raw"),
    }
    floats = {name for name, kind in found.items() if kind == TensorProto.FLOAT}
    # The sum over the map and what follows the last layers; no weight is there twice.
    assert {
        "box_weight",
        "quality_weight",
        "box_raw",
        "quality_raw",
        "class_raw",
        "map_mean",
        "rank",
        "gated",
    } <= floats
    assert not floats & {"stem", "gate", "class_weight", "half_stored", "features"}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_inputs_outputs_functions_and_metadata_stay(precision: Half) -> None:
    before = attach_calibrated_nms(branched_network(), ATTRIBUTES, metadata={"name": "tiny"})
    after = to_half(before, precision)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert list(after.metadata_props) == list(before.metadata_props)
    assert [list(function.node) for function in after.functions] == [
        list(function.node) for function in before.functions
    ]
    opset = {"fp16": 20, "bf16": 22}[precision]  # the first whose convolutions take bfloat16
    assert {entry.domain: entry.version for entry in after.opset_import} == {"": opset, "calibox": 1}


@lru_cache(maxsize=1)
def pictures() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_boxes_and_scores_stay_near(precision: Half) -> None:
    """By ONNX's own evaluator, which computes in bfloat16 as well, up to the operator."""
    model = half_of(tiny_network(), precision)
    del model.functions[:], model.graph.output[:]
    model.graph.node.pop()
    names = ("boxes", "p", "q")
    model.graph.output.extend(helper.make_tensor_value_info(f"network/{n}", TensorProto.FLOAT, None) for n in names)
    inputs = graph_feeds(pictures(), [Setting((1, 0, 0), 0, 0.5)] * 2)
    expected = ReferenceEvaluator(tiny_network()).run(None, {name: inputs[name] for name in ("images", "fusion")})
    found = ReferenceEvaluator(model).run(None, inputs)
    tolerances = (BOX_TOLERANCE[precision], *[SCORE_TOLERANCE[precision]] * 2)
    for here, there, tolerance in zip(found, expected, tolerances, strict=True):
        assert np.abs(here - there).max() > 0  # it did compute in half
        np.testing.assert_allclose(here, there, atol=tolerance)


def test_onnx_runtime_answers_nearly_the_same_in_fp16() -> None:
    before = attach_calibrated_nms(tiny_network(), ATTRIBUTES)
    inputs = graph_feeds(pictures(), [Setting((1, 0, 0), 0.1, 0.5)] * 2)
    expected, found = (open_graph(m.SerializeToString())(inputs) for m in (before, to_half(before, "fp16")))
    assert {name: array.dtype for name, array in found.items()} == {name: a.dtype for name, a in expected.items()}
    assert expected["num_detections"].min() > 0
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=BOX_TOLERANCE["fp16"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=SCORE_TOLERANCE["fp16"])


def test_numbers_that_the_precision_cannot_hold_stay_in_float32() -> None:
    """1e6 is beyond float16 and 1e-12 would become 0; bfloat16 holds both."""
    extra = "blown = Mul(gated, huge)  lifted = Max(blown, least)  shrunk = Div(lifted, huge)"
    network = branched_network(extra=extra, features="shrunk")
    fp16, bf16 = (types(half_of(network, precision)) for precision in PRECISIONS)
    assert fp16["blown"] == fp16["lifted"] == fp16["shrunk"] == TensorProto.FLOAT
    assert bf16["blown/bf16"] == bf16["lifted/bf16"] == bf16["shrunk/bf16"] == TensorProto.BFLOAT16
    assert fp16["class_raw/fp16"] == TensorProto.FLOAT16


def test_an_expectation_over_bins_is_no_last_layer() -> None:
    """Distributions of offsets are summed by a product with fixed numbers; the layer before is the last one."""
    network = branched_network()
    split = parser.parse_graph("""
      split (float[batch, 4, 4] box_rows) => (float[batch, 4, 4] expected) <float[4, 4] bins = {
          0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3}> {
        shares = Softmax <axis = -1> (box_rows)
        expected = MatMul(shares, bins)
      }""")
    gather = network.graph.node.pop()
    network.graph.node.extend([*split.node, gather])
    network.graph.node[-1].input[0] = "expected"
    network.graph.initializer.extend(split.initializer)
    found = types(half_of(network, "fp16"))
    assert found["box_raw"] == found["box_weight"] == found["shares"] == found["expected"] == TensorProto.FLOAT
    assert "box_raw/fp16" not in found


def test_an_iou_net_and_its_refinement_stay_in_float32() -> None:
    before = iou_net_model()
    after = to_half(before, "fp16")
    weights = {tensor.name: tensor.data_type for tensor in after.graph.initializer}
    assert {name for name, kind in weights.items() if kind == TensorProto.FLOAT16} == {
        f"network/{name}/fp16" for name in ("stem", "lateral")
    }
    kept = {tensor.name for tensor in before.graph.initializer if not tensor.name.startswith("network/")}
    assert kept
    assert kept <= set(weights)
    inputs = graph_feeds(pictures(), [Setting((0, 1, 0), 0, 0.5)] * 2)
    inputs["refine_steps"][:] = 2
    expected, found = (open_graph(m.SerializeToString())(inputs) for m in (before, after))
    assert expected["num_detections"].min() > 0
    np.testing.assert_allclose(found["localization_scores"][:, 0], expected["localization_scores"][:, 0], atol=0.02)


def test_the_default_bundle_becomes_half_as_large_and_keeps_its_last_convolutions() -> None:
    path = next((ROOT / "models").glob("*/*/model.onnx"))
    after = to_half(onnx.load(path), "fp16")
    assert after.ByteSize() < 0.53 * path.stat().st_size
    floats = {tensor.name: tensor for tensor in after.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    kernels = {name for name, tensor in floats.items() if len(tensor.dims) == 4}
    assert kernels == {f"network/detector.head.{branch}_conv.weight" for branch in ("box", "quality")}


def test_a_graph_without_the_operator_is_refused() -> None:
    with pytest.raises(ExportError, match=r"no CalibratedNMS.*take the model\.onnx of a bundle"):
        to_half(tiny_network(), "fp16")


def test_a_graph_of_which_nothing_can_change_is_refused() -> None:
    """Its only layer before the last ones has weights beyond float16."""
    network = tiny_network()
    stem = next(tensor for tensor in network.graph.initializer if tensor.name == "stem")
    stem.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stem) * np.float32(1e6), "stem"))
    with pytest.raises(ExportError, match="no layer of this graph can compute in fp16"):
        half_of(network, "fp16")

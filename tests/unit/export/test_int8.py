"""The INT8 forms of a graph: which layers, which pairs, and that the answers stay near."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from calibox_core.bundle import Bundle
from calibox_core.engines import EngineError
from calibox_export.errors import ExportError
from calibox_export.low_precision.coarse import coarse_layers, rounding
from calibox_export.low_precision.int8 import quantised_layers, signed_range, to_int8, with_signed_inputs
from calibox_export.low_precision.stored import stored_precision
from calibox_export.parity import Arrays, graph_feeds, open_graph, usual_settings
from tests.support.bundles import tiny_network
from tests.support.deeper_network import HEAD, MIDDLE, STEM, make_deeper_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_deeper_bundle(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def model(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.model_path)


@pytest.fixture(scope="module")
def int8(bundle: Bundle, model: onnx.ModelProto) -> onnx.ModelProto:
    return to_int8(model, feeds(bundle, range(4)))


def feeds(bundle: Bundle, seeds: range) -> Iterator[Arrays]:
    """Noise of several brightnesses."""
    own = usual_settings(bundle.manifest)[1]
    for seed in seeds:
        images = np.random.default_rng(seed).integers(0, 128 + 32 * seed, (1, 96, 128, 3), np.uint8)
        yield graph_feeds(images, [own])


def candidates(bundle: Bundle, graph: onnx.ModelProto) -> NDArray[Any]:
    """Classification scores of the candidates, falling: small errors change their order by key."""
    found = open_graph(graph.SerializeToString())(next(feeds(bundle, range(2, 3))))
    return np.sort(found["candidate_classification_scores"][0])[::-1]


def stored(graph: onnx.GraphProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(next(tensor for tensor in graph.initializer if tensor.name == name))


def test_all_convolutions_but_the_last_are_chosen(model: onnx.ModelProto) -> None:
    assert quantised_layers(model) == [STEM, MIDDLE]


def test_weights_of_the_chosen_layers_are_bytes_and_the_last_ones_stay(int8: onnx.ModelProto) -> None:
    makers = {node.output[0]: node for node in int8.graph.node}
    by_name = {node.name: node for node in int8.graph.node}
    for name in (STEM, MIDDLE):
        dequantise = makers[by_name[name].input[1]]
        assert dequantise.op_type == "DequantizeLinear"
        weights = stored(int8.graph, dequantise.input[0])
        assert weights.dtype == np.int8
        assert stored(int8.graph, dequantise.input[1]).shape == weights.shape[:1]  # a scale for each output channel
    assert stored(int8.graph, by_name[HEAD].input[1]).dtype == np.float32
    assert stored_precision(int8) == "int8"


def test_a_convolution_and_its_relu_have_no_pair_between_them(int8: onnx.ModelProto) -> None:
    """ONNX Runtime fuses the two only then."""
    makers = {node.output[0]: node for node in int8.graph.node}
    relus = [node for node in int8.graph.node if node.op_type == "Relu"]
    assert [makers[node.input[0]].name for node in relus] == [STEM, MIDDLE]
    readers = [node.op_type for node in int8.graph.node if set(node.input) & {node.output[0] for node in relus}]
    assert set(readers) == {"QuantizeLinear"}


@pytest.mark.parametrize("signed", [False, True])
def test_the_answers_stay_near_but_are_not_the_same(
    bundle: Bundle, model: onnx.ModelProto, int8: onnx.ModelProto, signed: bool
) -> None:
    graph = with_signed_inputs(int8) if signed else int8
    expected, found = candidates(bundle, model), candidates(bundle, graph)
    assert 0 < np.abs(found - expected).mean() < 0.02


def test_compilers_get_signed_pairs_around_zero_on_inputs_of_layers_alone(int8: onnx.ModelProto) -> None:
    graph = with_signed_inputs(int8).graph
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert pairs
    assert {int(stored(graph, node.input[2])) for node in pairs} == {0}
    assert {stored(graph, node.input[2]).dtype for node in pairs} == {np.dtype(np.int8)}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            assert "Conv" in {reader.op_type for reader in graph.node if node.output[0] in reader.input}
    kinds = {tensor.data_type for tensor in graph.initializer}
    assert TensorProto.UINT8 not in kinds  # of scales and zeros that nobody reads any more


def test_a_signed_range_holds_the_other_by_hand() -> None:
    """0..25.5 needs 25.5 / 127; -12.8..12.7 needs 12.8 / 127; -1..1.55 of bytes from -128 on needs 1.55 / 127."""
    for scale, zero, farthest in (
        (0.1, np.uint8(0), 25.5),
        (0.1, np.uint8(128), 12.8),
        (0.01, np.int8(-28), 1.55),
    ):
        found, middle = signed_range(np.array(scale, np.float32), np.asarray(zero))
        assert float(found) == pytest.approx(farthest / 127, rel=1e-6)
        assert (found.dtype, middle.dtype, int(middle)) == (np.float32, np.int8, 0)


def test_the_given_graph_stays_as_it_was(bundle: Bundle, model: onnx.ModelProto, int8: onnx.ModelProto) -> None:
    before = int8.SerializeToString()
    with_signed_inputs(int8)
    assert int8.SerializeToString() == before
    assert onnx.load(bundle.model_path).SerializeToString() == model.SerializeToString()
    assert [entry.domain for entry in int8.opset_import] == [entry.domain for entry in model.opset_import]


def test_what_is_quantised_already_is_refused(bundle: Bundle, int8: onnx.ModelProto) -> None:
    with pytest.raises(EngineError, match="is in int8 already"):
        to_int8(int8, feeds(bundle, range(1)))


def test_a_graph_without_the_operator_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no CalibratedNMS"):
        to_int8(tiny_network(), iter(()))


def test_rounding_is_a_step_over_the_root_of_12_by_the_middle_channels_spread() -> None:
    """By hand: channels of deviation 1, 2 and 1000 in a range of 2000: 2000 / 255 / 3.4641 / 2 = 1.1320."""
    channels = np.array([[-1, 1], [-2, 2], [-1000, 1000], [0, 0]], np.float32)
    assert rounding(channels[None, :, None, :]) == pytest.approx(1.1320, rel=1e-4)
    assert rounding(np.zeros((1, 2, 1, 3), np.float32)) == 0


def test_a_layer_with_one_huge_channel_stays_float(bundle: Bundle, model: onnx.ModelProto) -> None:
    altered = onnx.ModelProto()
    altered.CopyFrom(model)
    (middle,) = (tensor for tensor in altered.graph.initializer if tensor.name == "middle")
    weights = numpy_helper.to_array(middle).copy()
    weights[0] *= 1000
    middle.CopyFrom(numpy_helper.from_array(weights, middle.name))
    images = next(feeds(bundle, range(2, 3)))
    assert coarse_layers(model, [STEM, MIDDLE], images) == []
    assert coarse_layers(altered, [STEM, MIDDLE], images) == [MIDDLE]
    (kept,) = (node for node in to_int8(altered, [images]).graph.node if node.name == MIDDLE)
    assert kept.input[1] == "middle"


def test_without_images_there_are_no_ranges(model: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match="ranges are taken from training images, and there is none"):
        to_int8(model, iter(()))

"""A bundle's graph with its convolutions in INT8: QuantizeLinear and DequantizeLinear around what stays an ONNX graph.

Two forms, because runtimes read the pairs differently:

- ONNX Runtime on CPUs fuses a convolution only where its result is quantised as well, and is fast with unsigned maps
  whose zero lies anywhere (`to_int8`; this is the form of a bundle);
- compilers (OpenVINO, TensorRT) want pairs on the inputs of convolutions alone, signed, with zero at 0
  (`with_signed_inputs`). TensorRT knows no other form; OpenVINO 2026.4 reads the first one, and its group
  normalisations behind such a convolution then give zeros.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calibox_export.calibrated_nms import OPERATOR
from calibox_export.errors import ExportError
from calibox_export.low_precision.coarse import coarse_layers
from calibox_export.low_precision.layers import Wiring, float_names, network_nodes, reads
from calibox_export.low_precision.stored import check_fp32
from calibox_export.parity import Arrays

# Of the values of a map, this share (in percent) lies in its range. On the default model ranges by the extremes give a
# mean score drift of 0.0062, these 0.0049 (docs/results/engines.md).
PERCENTILE = 99.999
# Maps of so many images are held at once: those of all layers of one are 0.3 GB at 384 x 512.
_HELD = 2
_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
_SUFFIX = "/signed"

Pair = tuple[onnx.NodeProto, onnx.NodeProto]  # QuantizeLinear and the DequantizeLinear that reads it


def to_int8(model: onnx.ModelProto, feeds: Iterable[Arrays]) -> onnx.ModelProto:
    """A checked copy of a bundle's graph whose convolutions compute in INT8 in ONNX Runtime.

    Weights are symmetric with a scale per output channel, maps have one scale each. The last layers before boxes,
    class scores and qualities stay float32, and so do layers that a scale for a whole map is too coarse for and all
    that is no convolution.

    Args:
        model: of a bundle, in float32.
        feeds: inputs of the graph from training images; they show the ranges.

    Raises:
        EngineError: it is of a lower precision already.
        ExportError: it is not the graph of a bundle, has no convolution before its last ones, or there are no feeds.
    """
    check_fp32(model)
    named = _with_node_names(model)
    all_layers, feeds = quantised_layers(named), iter(feeds)
    first = next(feeds, None)
    if first is None:
        raise ExportError("ranges are taken from training images, and there is none")
    coarse = coarse_layers(named, all_layers, first)
    layers = [name for name in all_layers if name not in coarse]
    if not layers:
        raise ExportError("no convolution of this graph can compute in INT8: there is none before its last ones")
    found = _by_library(named, layers, chain([first], feeds))
    # A pair between a convolution and its Relu would keep ONNX Runtime from fusing the two.
    _drop_pairs(found.graph, lambda readers: [node.op_type for node in readers] == ["Relu"])
    found.producer_name, found.producer_version = model.producer_name, model.producer_version
    onnx.checker.check_model(found)
    return found


def quantised_layers(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that INT8 is for, in the order of the graph.

    Raises:
        ExportError: this is not the graph of a bundle.
    """
    wiring = Wiring(model.graph, float_names(model))
    network = network_nodes(wiring)
    operator = next(node for node in wiring.nodes if node.op_type == OPERATOR)
    chosen = network - wiring.before(operator.input[:3])
    return [wiring.nodes[i].name for i in sorted(chosen) if wiring.nodes[i].op_type == "Conv" and wiring.is_layer(i)]


def with_signed_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A checked copy with signed pairs around zero, on the inputs of layers alone: what compilers take."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _drop_pairs(copy.graph, lambda readers: all(node.op_type != "Conv" for node in readers))
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    added: dict[str, onnx.TensorProto] = {}
    for pair in _pairs(copy.graph):
        scale, zero = signed_range(stored[pair[0].input[1]], stored[pair[0].input[2]])
        for node in pair:
            for place, value in ((1, scale), (2, zero)):
                name = node.input[place] + _SUFFIX
                added[name] = numpy_helper.from_array(value, name)
                node.input[place] = name
    copy.graph.initializer.extend(added.values())
    _forget_unread(copy.graph)
    onnx.checker.check_model(copy)
    return copy


def signed_range(scale: NDArray[Any], zero: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Scale and zero of the smallest range around 0 that holds a range of whatever kind."""
    kind = np.iinfo(zero.dtype)
    farthest = max(int(zero) - kind.min, kind.max - int(zero))
    return np.asarray(scale * farthest / 127, np.float32), np.zeros((), np.int8)


def _by_library(model: onnx.ModelProto, layers: list[str], feeds: Iterable[Arrays]) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantise_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> Arrays | None:
            return next(self._left, None)

    relus = [node.name for node in model.graph.node if node.op_type == "Relu"]
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        path = Path(scratch) / "int8.onnx"
        quantise_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.Percentile,
            op_types_to_quantize=["Conv", "Relu"],
            nodes_to_quantize=[*layers, *relus],
            extra_options={
                "CalibPercentile": PERCENTILE,
                "CalibMaxIntermediateOutputs": _HELD,
                # Kept, so that a graph without the pairs is the same function.
                "QDQKeepRemovableActivations": True,
                # ONNX Runtime does it when it loads the file, and TensorRT wants it float.
                "QuantizeBias": False,
            },
        )
        return onnx.load(path)


def _with_node_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has a name of its own: the library knows nodes by name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    taken: set[str] = set()
    for i, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}/{i}"
        taken.add(node.name)
    return copy


def _pairs(graph: onnx.GraphProto) -> Iterator[Pair]:
    """Of maps; stored weights have a DequantizeLinear alone."""
    quantising = {node.output[0]: node for node in graph.node if node.op_type == _QUANTISE}
    for node in graph.node:
        if node.op_type == _DEQUANTISE and node.input[0] in quantising:
            yield quantising[node.input[0]], node


def _drop_pairs(graph: onnx.GraphProto, unwanted: Callable[[list[onnx.NodeProto]], bool]) -> None:
    """Takes out pairs by those that read their result."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    dropped = [pair for pair in _pairs(graph) if unwanted(readers.get(pair[1].output[0], []))]
    before = {dequantise.output[0]: quantise.input[0] for quantise, dequantise in dropped}
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = before.get(name, name)
    for _, dequantise in dropped:
        graph.node.remove(dequantise)
    _forget_unread(graph)


def _forget_unread(graph: onnx.GraphProto) -> None:
    """Takes out QuantizeLinear nodes and stored values that nobody reads any more."""
    read = _read(graph)
    for node in [node for node in graph.node if node.op_type == _QUANTISE and node.output[0] not in read]:
        graph.node.remove(node)
    read = _read(graph)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _read(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in reads(node)} | {output.name for output in graph.output}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library prints its steps and advises a preparation that the exported graph has behind it."""
    logger = logging.getLogger()
    before, logger.level = logger.level, logging.ERROR
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.level = before

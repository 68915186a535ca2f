"""Which layers a scale for the whole map is too coarse for: an order by measured rounding, and where it is cut.

A map has one scale in INT8. Where a few of its channels are hundreds of times as large as most, as in front of a group
normalisation, which makes all alike again, what most channels say is lost in the rounding.

Letters: B images, C channels, H rows, W columns.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from calibox_export.parity import Arrays

# Of a channel's own spread, what rounding adds to the middle channel. On the default model three of 113 layers lie
# above (0.07 to 0.13), all of the box branch; without them boxes drift by 0.5 px instead of 0.9
# (docs/results/engines.md).
COARSE = 1 / 16


def coarse_layers(model: onnx.ModelProto, layers: Sequence[str], feeds: Arrays) -> list[str]:
    """Layers whose output is better left in float, the worst first.

    Args:
        model: of a bundle, in float32; nodes have names.
        layers: names of the layers to look at.
        feeds: of the graph, an image or more.
    """
    outputs = _outputs(model, layers)
    maps = _maps(model, list(dict.fromkeys(outputs.values())), feeds)
    errors = {layer: rounding(maps[name]) for layer, name in outputs.items()}
    return sorted((layer for layer in layers if errors[layer] > COARSE), key=lambda layer: -errors[layer])


def rounding(values_BCHW: NDArray[np.float32]) -> float:
    """Standard deviation of the rounding to 256 steps, over that of the middle channel; 0 where nothing varies."""
    spread_C = values_BCHW.std(axis=(0, 2, 3))
    alive = spread_C[spread_C > 0]
    step = float(values_BCHW.max(initial=0) - values_BCHW.min(initial=0)) / 255
    # An error that is uniform over a step has a deviation of a step over the root of 12.
    return step / 12**0.5 / float(np.median(alive)) if len(alive) else 0.0


def _outputs(model: onnx.ModelProto, layers: Sequence[str]) -> dict[str, str]:
    """What is quantised of each layer: its output, behind its Relu where that reads it alone."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in model.graph.node:
        if node.name in layers:
            after = readers.get(node.output[0], [])
            found[node.name] = (after[0] if [n.op_type for n in after] == ["Relu"] else node).output[0]
    return found


def _maps(model: onnx.ModelProto, names: Sequence[str], feeds: Arrays) -> dict[str, NDArray[np.float32]]:
    import onnxruntime as ort

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    session = ort.InferenceSession(shown.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), dict(feeds)), strict=True))

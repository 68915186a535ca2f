"""The tiny bundle with a second convolution and Relus, so that there is something to quantise."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from calibox_core.bundle import MODEL_FILE, Bundle, read_bundle, read_manifest, write_manifest
from calibox_core.manifest import ClassInfo
from tests.support.bundles import CHANNELS, make_tiny_bundle

# The category ids of `make_coco_folder`.
RED_AND_BLUE = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))
STEM, MIDDLE, HEAD = "stem_conv", "middle_conv", "head_conv"


def make_deeper_bundle(root: Path) -> Bundle:
    """Writes ``root/tiny/1``: convolution, Relu, convolution, Relu, a sum over the two, and the last convolution."""
    folder = make_tiny_bundle(root, classes=2)
    model = onnx.load(folder / MODEL_FILE)
    deepen(model.graph)
    onnx.checker.check_model(model)
    onnx.save(model, folder / MODEL_FILE)
    write_manifest(folder, read_manifest(folder).model_copy(update={"classes": RED_AND_BLUE}))
    return read_bundle(folder)


def deepen(graph: onnx.GraphProto) -> None:
    """Makes the change in a graph with the tiny network in it."""
    stem, head = (node for node in graph.node if node.op_type == "Conv")
    stem.name, head.name = STEM, HEAD
    squash = next(node for node in graph.node if node.input[:1] == [stem.output[0]])
    squash.op_type = "Relu"
    features = squash.output[0]
    weights = np.random.default_rng(1).normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 12
    graph.initializer.append(numpy_helper.from_array(weights, "middle"))
    added = [
        helper.make_node("Conv", [features, "middle"], ["deeper"], name=MIDDLE, kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["deeper"], ["deeper_relu"], name="middle_relu"),
        helper.make_node("Add", [features, "deeper_relu"], ["sum"], name="sum"),
    ]
    place = list(graph.node).index(head)
    for offset, node in enumerate(added):
        graph.node.insert(place + offset, node)
    head.input[0] = "sum"

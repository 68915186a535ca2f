"""A bundle's graph with an IoU-Net and its refinement, of random weights; no detector is trained for it."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

from calibox_core.nms import NmsAttributes, OutScore
from calibox_export.iou_net.bundle_graph import bundle_graph
from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.spec import RefinementSpec
from tests.support.bundles import CHANNELS, STRIDE, tiny_network
from tests.support.iou_net import hilly_predictor


def iou_net_model(
    *, classes: int = 3, steps: int = 2, out_score: OutScore = OutScore.KEY, height: int = 96, width: int = 128
) -> onnx.ModelProto:
    """The tiny network, whose only map is of stride 8, and a predictor on it."""
    network = tiny_network(classes=classes, height=height, width=width)
    del network.graph.output[2:]
    # A layer of its own, as a pyramid has: the map is not what the head reads.
    network.graph.node.extend(parser.parse_graph("maps () => () { map_0 = Conv(features, lateral) }").node)
    lateral = np.eye(CHANNELS, dtype=np.float32)[:, :, None, None]
    network.graph.initializer.append(numpy_helper.from_array(lateral, "lateral"))
    shape = ["batch", CHANNELS, height // STRIDE, width // STRIDE]
    network.graph.output.append(helper.make_tensor_value_info("map_0", TensorProto.FLOAT, shape))
    return bundle_graph(
        network,
        hilly_predictor(width=16, pooled=3, features=CHANNELS, classes=classes),
        Levels(3, 3),
        attributes=NmsAttributes(pre_nms_top_k=200, max_detections=50, out_score=out_score),
        refinement=RefinementSpec(steps=steps),
    )

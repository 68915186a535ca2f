"""From a network's graph to the graph of a bundle: the operator attached, names, types and shapes as agreed.

The contract of the inputs and outputs is written down here once; exporting, verifying and the tests read it.
"""

from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, ValueInfoProto, compose, helper

from calibox_core import __version__
from calibox_core.manifest import OPSET
from calibox_core.nms import NmsAttributes
from calibox_core.operator_names import INPUTS, OUTPUTS
from calibox_export.calibrated_nms import (
    DOMAIN,
    DOMAIN_VERSION,
    OPERATOR,
    calibrated_nms_function,
    calibrated_nms_node,
)
from calibox_export.errors import ExportError

# The first that holds opset 20 is 9; 10 is what torch writes and is read by ONNX Runtime 1.18 and later.
IR_VERSION = 10
BATCH = "batch"
NETWORK_INPUTS = ("images", "fusion")
NETWORK_OUTPUTS = ("boxes", "p", "q")
NETWORK_PREFIX = "network/"


def contract_inputs(*, height: int, width: int) -> list[ValueInfoProto]:
    """Inputs of a bundle's graph, in order, for an image tensor of ``height`` x ``width`` pixels."""
    return [
        helper.make_tensor_value_info("images", TensorProto.UINT8, [BATCH, height, width, 3]),
        helper.make_tensor_value_info("fusion", TensorProto.FLOAT, [BATCH, 3]),
        helper.make_tensor_value_info("score_threshold", TensorProto.FLOAT, [BATCH]),
        helper.make_tensor_value_info("iou_threshold", TensorProto.FLOAT, [BATCH]),
        helper.make_tensor_value_info("refine_steps", TensorProto.INT32, [BATCH]),
    ]


def contract_outputs(attributes: NmsAttributes) -> list[ValueInfoProto]:
    """Outputs of a bundle's graph, in order."""
    return [_output(name, attributes) for name in OUTPUTS]


def _output(name: str, attributes: NmsAttributes) -> ValueInfoProto:
    if name == "num_detections":
        return helper.make_tensor_value_info(name, TensorProto.INT32, [BATCH])
    rows = attributes.pre_nms_top_k if name.startswith("candidate_") else attributes.max_detections
    kind = TensorProto.INT32 if name.endswith("labels") else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, [BATCH, rows, *([4] if name.endswith("boxes") else [])])


def attach_calibrated_nms(
    network: onnx.ModelProto,
    attributes: NmsAttributes,
    *,
    quality_per_class: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The whole graph of a bundle.

    Args:
        network: opset 20, inputs images uint8 ``[B, H, W, 3]`` (H and W fixed) and fusion float32 ``[B, 3]``, outputs
            boxes float32 ``[B, A, 4]``, p float32 ``[B, A, C]`` and q float32 ``[B, A, 1]`` or ``[B, A, C]``.
        attributes: of the CalibratedNMS that is attached.
        quality_per_class: whether q has one value per class.
        metadata: written into the file for readers that see only it.

    Returns:
        A checked model with the inputs of `contract_inputs` and the outputs of `contract_outputs`.

    Raises:
        ExportError: the network's inputs, outputs or opset are others.
    """
    height, width = check_network(network, outputs=NETWORK_OUTPUTS)
    body = prefixed_network(network)
    node = calibrated_nms_node(
        attributes,
        inputs=[*(NETWORK_PREFIX + name for name in NETWORK_OUTPUTS), "fusion", "score_threshold", "iou_threshold"],
        outputs=OUTPUTS,
    )
    function = calibrated_nms_function(attributes, quality_per_class=quality_per_class)
    return bundle_model(
        body,
        [node],
        [function],
        inputs=contract_inputs(height=height, width=width),
        attributes=attributes,
        metadata=metadata,
    )


def prefixed_network(network: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose names, but for the inputs, begin with `NETWORK_PREFIX`."""
    copy: onnx.ModelProto = compose.add_prefix(network, NETWORK_PREFIX, rename_inputs=False, rename_functions=False)
    return copy


def bundle_model(
    body: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    functions: Sequence[onnx.FunctionProto],
    *,
    inputs: Sequence[ValueInfoProto],
    attributes: NmsAttributes,
    initializers: Sequence[onnx.TensorProto] = (),
    metadata: Mapping[str, str] | None = None,
) -> onnx.ModelProto:
    """The checked model of a bundle: a network of `prefixed_network`, and the nodes that follow it.

    Args:
        body: the network.
        nodes: from the network's outputs to those of `contract_outputs`.
        functions: that the nodes call.
        inputs: of `contract_inputs`.
        attributes: of the CalibratedNMS among the nodes.
        initializers: that the nodes read.
        metadata: written into the file for readers that see only it.
    """
    graph = helper.make_graph(
        [*body.graph.node, *nodes],
        "detector",
        inputs,
        contract_outputs(attributes),
        initializer=[*body.graph.initializer, *initializers],
        value_info=[*body.graph.value_info, *body.graph.output],
    )
    model = helper.make_model(
        graph,
        functions=[*body.functions, *functions],
        opset_imports=[*body.opset_import, helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
        producer_name="calibox",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model, full_check=True)
    return model


def with_candidate_floor(
    model: onnx.ModelProto, attributes: NmsAttributes, *, quality_per_class: bool
) -> onnx.ModelProto:
    """A copy of a bundle's graph with the operator of other attributes, of which only the floor may differ."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    others = [function for function in copy.functions if function.name != OPERATOR]
    del copy.functions[:]
    copy.functions.extend([*others, calibrated_nms_function(attributes, quality_per_class=quality_per_class)])
    for node in copy.graph.node:
        if node.op_type == OPERATOR:
            node.CopyFrom(calibrated_nms_node(attributes, inputs=node.input, outputs=node.output))
    return copy


def operator_model(attributes: NmsAttributes, *, quality_per_class: bool) -> onnx.ModelProto:
    """A checked model of the operator alone, to test and to measure it; its inputs are `in_boxes`, `in_p` and so on."""
    dims: dict[str, list[str | int]] = {
        "boxes": [BATCH, "anchors", 4],
        "p": [BATCH, "anchors", "classes"],
        "q": [BATCH, "anchors", "qualities"],
        "fusion": [BATCH, 3],
        "score_threshold": [BATCH],
        "iou_threshold": [BATCH],
    }
    graph = helper.make_graph(
        [calibrated_nms_node(attributes, inputs=[f"in_{name}" for name in INPUTS], outputs=OUTPUTS)],
        "operator",
        [helper.make_tensor_value_info(f"in_{name}", TensorProto.FLOAT, dims[name]) for name in INPUTS],
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


def check_network(network: onnx.ModelProto, *, outputs: Sequence[str]) -> tuple[int, int]:
    """Height and width of a network that follows the contract.

    Raises:
        ExportError: its inputs, outputs or opset are others.
    """
    inputs = {value.name: value.type.tensor_type for value in network.graph.input}
    found = tuple(value.name for value in network.graph.output)
    if tuple(inputs) != NETWORK_INPUTS or found != tuple(outputs):
        raise ExportError(
            f"the network's graph must have the inputs {NETWORK_INPUTS} and the outputs {tuple(outputs)} in this "
            f"order, got {tuple(inputs)} and {found}"
        )
    versions = {entry.domain: entry.version for entry in network.opset_import}
    if versions.get("", 0) != OPSET:
        raise ExportError(f"the network's graph must be of opset {OPSET}, got {versions.get('', 0)}; export it again")
    images = inputs["images"]
    dims = [dim.dim_value for dim in images.shape.dim]
    if images.elem_type != TensorProto.UINT8 or len(dims) != 4 or dims[3] != 3 or min(dims[1:3]) < 1:
        raise ExportError(
            "the network's `images` must be uint8 [B, H, W, 3] with fixed H and W, got "
            f"{TensorProto.DataType.Name(images.elem_type)} {dims} (0 stands for a dimension that is not fixed)"
        )
    return dims[1], dims[2]

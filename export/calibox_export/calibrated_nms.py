"""CalibratedNMS as an ONNX model-local function: domain `calibox`, opset 20, standard operators only.

The body equals `calibox_core.nms` image by image and works on a whole batch. It is written in the ONNX text syntax:
`nms_selection` holds its first half, from scores to candidates, `nms_suppression` the second, from candidates to
detections. Neither NonMaxSuppression nor NonZero appears, because not every runtime has them.

ONNX Runtime's Log rounds the last elements of a thread's share differently from the others, so two pairs with equal
scores can get keys that differ in the last bit. Keys that need no logarithm are the reference's, bit by bit.
"""

from collections.abc import Sequence

import onnx
from onnx import parser

from calibox_core.manifest import OPSET
from calibox_core.nms import NmsAttributes
from calibox_core.operator_names import INPUTS, OUTPUTS
from calibox_export.nms_selection import selection_text
from calibox_export.nms_suppression import suppression_text

DOMAIN = "calibox"
OPERATOR = "CalibratedNMS"
DOMAIN_VERSION = 1
# TensorRT 10.15 and later replace a node by a plugin only when the node names the namespace and the version in which
# its creator is registered; the domain does not count.
PLUGIN_NAMESPACE = "calibox"
PLUGIN_VERSION = "1"


def calibrated_nms_function(attributes: NmsAttributes, *, quality_per_class: bool) -> onnx.FunctionProto:
    """The operator's body for these attributes.

    The attributes are written into the body as constants, because the number of tiles and the choice of the reported
    score shape the graph; the node repeats them for a runtime that replaces the body (`calibrated_nms_node`).

    Args:
        attributes: what is fixed in the graph.
        quality_per_class: whether q is ``[B, A, C]`` instead of ``[B, A, 1]``.

    Returns:
        A function with the inputs boxes float32 ``[B, A, 4]``, p float32 ``[B, A, C]``, q, fusion float32 ``[B, 3]``,
        score_threshold and iou_threshold float32 ``[B]``, and the ten outputs of `OUTPUTS`.
    """
    names = ", ".join((*NmsAttributes.model_fields, "plugin_version", "plugin_namespace"))
    # Inside a function every name is given once, and `boxes` is an input.
    outputs = ", ".join(f"out_{name}" for name in OUTPUTS)
    return parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
        f"{OPERATOR} <{names}> ({', '.join(INPUTS)}) => ({outputs}) {{\n"
        f"{selection_text(attributes, quality_per_class=quality_per_class)}\n{suppression_text(attributes)}\n}}"
    )


def calibrated_nms_node(attributes: NmsAttributes, *, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.NodeProto:
    """The node that calls the function, every attribute written out, since a plugin skips what is missing.

    Args:
        attributes: those of the body.
        inputs: the graph's names for `INPUTS`.
        outputs: the graph's names for `OUTPUTS`.
    """
    return onnx.helper.make_node(
        OPERATOR,
        inputs,
        outputs,
        name=OPERATOR,
        domain=DOMAIN,
        plugin_version=PLUGIN_VERSION,
        plugin_namespace=PLUGIN_NAMESPACE,
        **attributes.model_dump(mode="json"),
    )

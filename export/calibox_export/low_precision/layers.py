"""Which nodes of a bundle's graph are its network, and which settle boxes and qualities.

A layer is a product with stored weights. From a box or a quality that enters CalibratedNMS back to the nearest layers
lies what no further layer smooths: these layers are the last ones, and an error of theirs is an error of the answer.
"""

from collections import deque
from collections.abc import Collection, Iterable

import onnx
from onnx import TensorProto, shape_inference

from calibox_export.calibrated_nms import OPERATOR
from calibox_export.errors import ExportError

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# What only moves or stores values: weights are looked for behind these, and so is a Softmax.
_MOVES = ("Cast", "DequantizeLinear", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def reads(node: onnx.NodeProto) -> list[str]:
    """Names that a node needs: its inputs, and what its bodies take from around them."""
    bodies = [a.g for a in node.attribute if a.HasField("g")] + [g for a in node.attribute for g in a.graphs]
    inner = [name for body in bodies for one in body.node for name in reads(one)]
    outer = [output.name for body in bodies for output in body.output]
    return [name for name in (*node.input, *inner, *outer) if name]


class Wiring:
    """A graph by its tensors.

    Args:
        graph: every name in it is given once.
        floats: names of its float32 tensors; the walks below follow these alone, because shapes and indices carry no
            error of the arithmetic.
    """

    def __init__(self, graph: onnx.GraphProto, floats: Collection[str]) -> None:
        self.nodes = list(graph.node)
        self.floats = floats
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.stored[node.output[0]] = node.attribute[0].t
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in reads(node):
                self.readers.setdefault(name, []).append(i)

    def is_layer(self, number: int) -> bool:
        """Whether a node multiplies by stored weights. Behind a Softmax that is an expectation, not a layer."""
        node = self.nodes[number]
        if node.op_type not in LAYERS:
            return False
        origins = [self._origin(name) for name in node.input[:2]]
        return any(o in self.stored for o in origins) and not any(self._made_by(o) == "Softmax" for o in origins)

    def _origin(self, name: str) -> str:
        while self._made_by(name) in _MOVES:
            name = self.nodes[self.producer[name]].input[0]
        return name

    def _made_by(self, name: str) -> str:
        return self.nodes[self.producer[name]].op_type if name in self.producer else ""

    def before(self, names: Iterable[str]) -> set[int]:
        """Nodes that lead to the tensors, back to the nearest layers and with these."""
        waiting, seen = deque(names), set[int]()
        while waiting:
            number = self.producer.get(waiting.popleft())
            if number is None or number in seen:
                continue
            seen.add(number)
            if not self.is_layer(number):
                waiting += [name for name in reads(self.nodes[number]) if name in self.floats]
        return seen

    def after(self, numbers: Iterable[int]) -> set[int]:
        """These nodes, and all that depends on what they give."""
        waiting = deque(numbers)
        seen = set(waiting)
        while waiting:
            for name in self.nodes[waiting.popleft()].output:
                new = set(self.readers.get(name, [])) - seen if name in self.floats else set[int]()
                seen |= new
                waiting += new
        return seen


def float_names(model: onnx.ModelProto) -> set[str]:
    """Float32 tensors of the main graph."""
    graph = shape_inference.infer_shapes(model).graph
    values = (*graph.value_info, *graph.input, *graph.output)
    made = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return made | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def network_nodes(wiring: Wiring) -> set[int]:
    """Nodes from the first layers on, without those that settle boxes and qualities and without all that follows these.

    Left out are the last layers of boxes and of qualities, what lies between the last layers of class scores and
    CalibratedNMS or a choice of the best, and everything behind: decoding, ranking, the operator, an IoU-Net and its
    refinement.

    Raises:
        ExportError: there is no CalibratedNMS in the graph.
    """
    operator = next((node for node in wiring.nodes if node.op_type == OPERATOR), None)
    if operator is None:
        raise ExportError(
            f"the graph has no {OPERATOR}, so nobody knows which of its layers settle boxes and qualities: take the "
            "model.onnx of a bundle"
        )
    boxes, p, q = operator.input[:3]
    ranked = [node.input[0] for node in wiring.nodes if node.op_type == "TopK"]
    layers = {number for number in range(len(wiring.nodes)) if wiring.is_layer(number)}
    settling = wiring.before([boxes, q]) | (wiring.before([p, *ranked]) - layers)
    return wiring.after(layers) - wiring.after(settling)

"""A bundle's graph with its network in float16 or bfloat16; what settles boxes and qualities stays float32.

The graph is strongly typed: every tensor says its type, so that a runtime has nothing to choose. A tensor keeps its
name where it is float32 and has a suffix where it is half; where both are read, a Cast stands between. Libraries that
do this know neither the layers that must stay nor functions within a model, or only float16.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper, numpy_helper

from calibox_export.errors import ExportError
from calibox_export.low_precision.layers import Wiring, float_names, network_nodes, reads

Half = Literal["fp16", "bf16"]


class _Type(NamedTuple):
    onnx: int
    array: Any  # of numpy
    name: str  # in the schemas of ONNX


_TYPES: dict[Half, _Type] = {
    "fp16": _Type(TensorProto.FLOAT16, np.float16, "tensor(float16)"),
    "bf16": _Type(TensorProto.BFLOAT16, ml_dtypes.bfloat16, "tensor(bfloat16)"),
}
# From 22 on convolutions, pools and normalisations take bfloat16; else nothing has changed since 20, but for
# GroupNormalization, which 20 does not have any more.
_OPSET = {"fp16": 0, "bf16": 22}
_ONNX = ("", "ai.onnx")  # the domain's two names
# Sums over a map leave the range of float16 or the 8 bits of bfloat16 where a runtime adds up in half. Normalisations
# are left to the runtime: those of TensorRT and ONNX Runtime compute in float32 inside.
_SUMS = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSum", "ReduceSumSquare")
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")


def to_half(model: onnx.ModelProto, precision: Half) -> onnx.ModelProto:
    """A checked copy of a bundle's graph whose network computes in ``precision``.

    The last layers of boxes and qualities and everything behind the last layers (decoding, sigmoid, fusion,
    CalibratedNMS, an IoU-Net, refinement), what comes before the first layer, sums over maps, functions and loops stay
    float32, and so do all inputs and outputs. A node whose stored numbers ``precision`` cannot hold (beyond 65,504 in
    fp16, or a small constant that would become 0) stays float32 too. Nothing is clamped: whether what flows between
    the layers fits is seen when the result is measured; bf16 has the range of float32.

    bf16 needs opset 22, which the copy then has; ONNX Runtime 1.31 has no convolutions in bf16 on the CPU, and runs
    fp16 there in float32 between casts.

    Raises:
        ExportError: this is not the graph of a bundle, or no layer of it can change.
    """
    copy = _of_opset(model, _OPSET[precision])
    graph = copy.graph
    rewriting = _Rewriting(graph, float_names(copy), precision, opset=_opset(copy))
    nodes, initializers = list(rewriting.nodes()), list(rewriting.initializers())
    if not rewriting.has_layers():
        raise ExportError(
            f"no layer of this graph can compute in {precision}: those before its last ones hold numbers beyond its "
            "range, or there are none; keep it in fp32"
        )
    made = {name for node in nodes for name in node.output}
    known = [value for value in graph.value_info if value.name in made]
    for field, content in ((graph.node, nodes), (graph.initializer, initializers), (graph.value_info, known)):
        del field[:]
        field.extend(content)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def _opset(model: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in _ONNX)


def _of_opset(model: onnx.ModelProto, needed: int) -> onnx.ModelProto:
    """A copy of at least this opset; the functions must agree with the graph about it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if _opset(model) >= needed:
        return copy
    for holder in (copy, *copy.functions):
        for entry in holder.opset_import:
            if entry.domain in _ONNX:
                entry.version = needed
    return copy


class _Places(NamedTuple):
    """Which inputs and outputs of a node become half."""

    inputs: frozenset[int]
    outputs: frozenset[int]


class _Rewriting:
    """A graph on its way to half precision."""

    def __init__(self, graph: onnx.GraphProto, floats: set[str], precision: Half, *, opset: int) -> None:
        self._wiring = Wiring(graph, floats)
        self._graph, self._opset = graph, opset
        self._type, self._suffix = _TYPES[precision], f"/{precision}"
        self.chosen = {i: places for i in network_nodes(self._wiring) if (places := self._places(i))}
        self._halves = {node.output[o] for node, at in self._pairs() for o in at.outputs}  # made in half
        self._wanted = {node.input[i] for node, at in self._pairs() for i in at.inputs}  # read in half
        self._kept = self._read_in_float()

    def has_layers(self) -> bool:
        """Whether any layer changes."""
        return any(self._wiring.is_layer(i) for i in self.chosen)

    def _pairs(self) -> Iterator[tuple[onnx.NodeProto, _Places]]:
        return ((self._wiring.nodes[i], places) for i, places in self.chosen.items())

    def _read_in_float(self) -> set[str]:
        found = {output.name for output in self._graph.output}
        for i, node in enumerate(self._wiring.nodes):
            if i in self.chosen:
                found |= {name for k, name in enumerate(node.input) if k not in self.chosen[i].inputs}
            else:
                found |= set(reads(node))
        return found

    def _places(self, number: int) -> _Places | None:
        """None for a node that stays float32."""
        node = self._wiring.nodes[number]
        if node.op_type in (*_SUMS, *_QUANTISED) or not defs.has(node.op_type, self._opset, node.domain):
            return None
        schema = defs.get_schema(node.op_type, self._opset, node.domain)
        inputs, outputs = (
            {
                k: formal.type_str
                for k, name, formal in _formal(names, formals)
                if name in self._wiring.floats and self._allowed(formal)
            }
            for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs))
        )
        floats = [k for k, name in enumerate(node.output) if name in self._wiring.floats]
        typed_by_input = set(outputs.values()) <= set(inputs.values())
        if set(floats) != set(outputs) or not outputs or not typed_by_input:
            return None
        fits = all(self._fits(node.input[k]) for k in inputs)
        return _Places(frozenset(inputs), frozenset(outputs)) if fits else None

    def _allowed(self, formal: Any) -> bool:
        return self._type.name in formal.types

    def _fits(self, name: str) -> bool:
        if name not in self._wiring.stored:
            return True
        values, halves = self._stored(name)
        vanishes = values.size == 1 and (values != 0).any() and not halves.any()
        return not vanishes and bool((np.isfinite(halves) | ~np.isfinite(values)).all())

    def _stored(self, name: str) -> tuple[NDArray[Any], NDArray[Any]]:
        values = numpy_helper.to_array(self._wiring.stored[name])
        with np.errstate(over="ignore"):
            return values, values.astype(self._type.array)

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """In an order in which each has what it reads."""
        yield from (self._cast_down(value.name) for value in self._graph.input if value.name in self._wanted)
        for i, node in enumerate(self._wiring.nodes):
            if node.op_type == "Constant" and node.output[0] in self._wiring.stored:
                if node.output[0] in self._kept:
                    yield node
                continue
            yield self._in_half(node, self.chosen[i]) if i in self.chosen else node
            for name in node.output:
                if name in self._halves and name in self._kept:
                    yield self._cast(name + self._suffix, name, TensorProto.FLOAT)
                elif name in self._wanted - self._halves:
                    yield self._cast_down(name)

    def _cast_down(self, name: str) -> onnx.NodeProto:
        return self._cast(name, name + self._suffix, self._type.onnx)

    def _cast(self, given: str, made: str, kind: int) -> onnx.NodeProto:
        return helper.make_node("Cast", [given], [made], name=f"{made}_cast", to=kind)

    def _in_half(self, node: onnx.NodeProto, places: _Places) -> onnx.NodeProto:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for names, at in ((copy.input, places.inputs), (copy.output, places.outputs)):
            for k in at:
                names[k] += self._suffix
        return copy

    def initializers(self) -> Iterator[onnx.TensorProto]:
        """Stored numbers in the types in which they are read."""
        yield from (tensor for tensor in self._graph.initializer if tensor.name in self._kept)
        for name in self._wiring.stored:
            if name in self._wanted:
                yield numpy_helper.from_array(self._stored(name)[1], name + self._suffix)


def _formal(names: Any, formals: Any) -> Iterator[tuple[int, str, Any]]:
    """Position, name and declaration of each input or output; the last declaration may stand for several."""
    return ((k, name, formals[min(k, len(formals) - 1)]) for k, name in enumerate(names))

"""A foreign detector as a network of this project: letterboxed pictures in, boxes and class scores out.

Its own nodes stand between two pieces of ours, which are written in the ONNX text syntax: what turns uint8 pictures
into its input, and what turns its outputs into K rows. Where the file takes one picture at a time the three lie in the
body of a Loop over the batch.

Letters: B pictures of a batch, b pictures that the nodes see at once (B, or 1 in a loop), H x W pixels, N rows of the
detector, K rows that are passed on, C classes, S columns of its scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, compose, helper, parser

from calibox_core.manifest import OPSET
from calibox_export.attach.description import ForeignSpec
from calibox_export.graph import BATCH, IR_VERSION

PREFIX = "foreign/"  # of every name in the file, so that none of ours is among them
_TYPES: dict[int, str] = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}


@dataclass(frozen=True, slots=True)
class ForeignDetector:
    """A model at opset 20 and how to read it."""

    model: onnx.ModelProto
    spec: ForeignSpec
    kind: int  # element type of its input
    ranks: dict[str, int]  # of its outputs
    batched: bool  # answers several pictures at once as it answers each alone


def raw_graph(detector: ForeignDetector) -> onnx.ModelProto:
    """The detector behind our pictures: ``images`` uint8 ``[1, H, W, 3]`` to its own outputs, names with `PREFIX`."""
    renamed = _renamed(detector)
    nodes = [*_before(detector), *renamed.graph.node]
    return _model(detector, nodes, [_images(detector.spec, 1)], renamed.graph.output)


def detector_graph(detector: ForeignDetector, numbers: Sequence[int], rows: int) -> onnx.ModelProto:
    """The whole network.

    Args:
        detector: the file.
        numbers: what it calls each of the C classes.
        rows: K, the best by score; what is missing is filled up with boxes and scores of 0.

    Returns: a model of opset 20 with the input images uint8 ``[B, H, W, 3]`` and the outputs boxes float32
        ``[B, K, 4]`` (x1, y1, x2, y2 in pixels of the input, inside it) and p float32 ``[B, K, C]``.
    """
    spec = detector.spec
    nodes = [*_before(detector), *_renamed(detector).graph.node, *_after(detector, numbers, rows)]
    if not detector.batched:
        nodes = _loop(nodes)
    outputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [BATCH, rows, 4]),
        helper.make_tensor_value_info("p", TensorProto.FLOAT, [BATCH, rows, len(numbers)]),
    ]
    return _model(detector, nodes, [_images(spec, BATCH)], outputs)


def reading_graph(detector: ForeignDetector, numbers: Sequence[int], rows: int) -> onnx.ModelProto:
    """What `detector_graph` does with the file's outputs alone, which are its inputs, names with `PREFIX`."""
    spec = detector.spec
    read = (spec.boxes, spec.scores, spec.labels)
    inputs = [
        helper.make_value_info(PREFIX + value.name, value.type)
        for value in detector.model.graph.output
        if value.name in read
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("boxes", "p")]
    return helper.make_model(
        helper.make_graph(_after(detector, numbers, rows), "reading", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _images(spec: ForeignSpec, batch: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("images", TensorProto.UINT8, [batch, spec.height, spec.width, 3])


def _model(detector: ForeignDetector, nodes: Sequence[onnx.NodeProto], inputs: Any, outputs: Any) -> onnx.ModelProto:
    own = detector.model
    domains = [entry for entry in own.opset_import if entry.domain not in ("", "ai.onnx")]
    return helper.make_model(
        helper.make_graph(nodes, "foreign", inputs, outputs),
        functions=own.functions,
        opset_imports=[helper.make_opsetid("", OPSET), *domains],
        ir_version=IR_VERSION,
    )


def _renamed(detector: ForeignDetector) -> onnx.ModelProto:
    """A copy with `PREFIX` before every name."""
    copy = onnx.ModelProto()
    copy.CopyFrom(detector.model)
    _weights_as_nodes(copy.graph)
    renamed: onnx.ModelProto = compose.add_prefix(copy, PREFIX, rename_functions=False, inplace=True)
    return renamed


def _weights_as_nodes(graph: onnx.GraphProto) -> None:
    """Weights become constants, in subgraphs too: onnx's `add_prefix` forgets weights that a subgraph reads."""
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    nodes = [*constants, *graph.node]
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _weights_as_nodes(inner)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.initializer[:], graph.node[:]
    graph.node.extend(copies)


def _before(detector: ForeignDetector) -> list[onnx.NodeProto]:
    """From ``images`` uint8 ``[b, H, W, 3]`` to the file's input."""
    spec, lines = detector.spec, []
    now = "images"
    if spec.channels == "bgr":
        lines += ["swap = Constant <value_ints = [2, 1, 0]> ()", f"swapped = Gather <axis = 3> ({now}, swap)"]
        now = "swapped"
    if detector.kind != TensorProto.UINT8:
        lines += [
            f"pixels = Cast <to = {TensorProto.FLOAT}> ({now})",
            f"scale = Constant <value_float = {spec.scale!r}> ()",
            f"mean = Constant <value_floats = {list(spec.mean)}> ()",
            f"std = Constant <value_floats = {list(spec.std)}> ()",
            "scaled = Mul(pixels, scale)",
            "centred = Sub(scaled, mean)",
            "unit = Div(centred, std)",
        ]
        now = "unit"
    if "c" in spec.layout[:2]:
        lines.append(f"planes = Transpose <perm = [0, 3, 1, 2]> ({now})")
        now = "planes"
    if spec.takes_one:
        lines += ["first_axis = Constant <value_ints = [0]> ()", f"alone = Squeeze({now}, first_axis)"]
        now = "alone"
    lines.append(f"input = Cast <to = {detector.kind}> ({now})")
    text = "before/", "uint8[b, h, w, 3] images", f"{_TYPES[detector.kind]}[] input", lines
    return _nodes(*text, {"images": "images", "input": PREFIX + spec.input})


def _after(detector: ForeignDetector, numbers: Sequence[int], rows: int) -> list[onnx.NodeProto]:
    """From the file's outputs to ``boxes`` ``[b, K, 4]`` and ``p`` ``[b, K, C]``."""
    spec = detector.spec
    lists = spec.labels is not None
    lines = _outputs_with_batch(detector)
    lines += _corners(spec)
    lines += _scores_of_labels(numbers) if lists else _scores_of_columns(spec, numbers)
    lines += _best_rows(rows)
    given = {"boxes_in": spec.boxes, "scores_in": spec.scores, **({"labels_in": spec.labels} if lists else {})}
    signature = ", ".join(f"float[] {name}" for name in given)
    names = {ours: PREFIX + str(theirs) for ours, theirs in given.items()} | {"boxes": "boxes", "p": "p"}
    return _nodes("after/", signature, "float[] boxes, float[] p", lines, names)


def _outputs_with_batch(detector: ForeignDetector) -> list[str]:
    """Into ``found`` ``[b, N, 4]`` and ``scores`` ``[b, N]`` or ``[b, N, S]``, float32; ``labels`` int64 ``[b, N]``."""
    spec = detector.spec
    lines = ["first_axis = Constant <value_ints = [0]> ()"]
    kinds = {
        "found": ("boxes_in", spec.boxes, TensorProto.FLOAT),
        "scores": ("scores_in", spec.scores, TensorProto.FLOAT),
    }
    if spec.labels is not None:
        kinds["labels"] = ("labels_in", spec.labels, TensorProto.INT64)
    lacks_batch = detector.ranks[spec.boxes] == 2
    for name, (source, _, kind) in kinds.items():
        cast = f"{name}_alone" if lacks_batch else name
        lines.append(f"{cast} = Cast <to = {kind}> ({source})")
        lines += [f"{name} = Unsqueeze({cast}, first_axis)"] if lacks_batch else []
    return lines


def _corners(spec: ForeignSpec) -> list[str]:
    """Into ``inside``: x1, y1, x2, y2 in pixels, cut to the picture."""
    unit = [spec.width, spec.height] * 2 if spec.box_unit == "fraction" else [1, 1, 1, 1]
    lines = [
        f"unit = Constant <value_floats = {[float(side) for side in unit]}> ()",
        f"limit = Constant <value_floats = {[float(side) for side in (spec.width, spec.height) * 2]}> ()",
        "nothing = Constant <value_float = 0.0> ()",
        "in_pixels = Mul(found, unit)",
        "one_end, other_end = Split <axis = 2, num_outputs = 2> (in_pixels)",
    ]
    lines += {
        "xyxy": ["corners = Identity(in_pixels)"],
        "xywh": ["far = Add(one_end, other_end)", "corners = Concat <axis = 2> (one_end, far)"],
        "cxcywh": [
            "half = Constant <value_float = 0.5> ()",
            "halves = Mul(other_end, half)",
            "near = Sub(one_end, halves)",
            "far = Add(one_end, halves)",
            "corners = Concat <axis = 2> (near, far)",
        ],
    }[spec.box_form]
    return [*lines, "above_low = Max(corners, nothing)", "inside = Min(above_low, limit)"]


def _scores_of_labels(numbers: Sequence[int]) -> list[str]:
    """Into ``all_p`` ``[b, N, C]``: a row's score in the column of its label, 0 elsewhere; other labels get none."""
    return [
        "last = Constant <value_ints = [-1]> ()",
        f"numbers = Constant <value_ints = {list(numbers)}> ()",
        "label_column = Unsqueeze(labels, last)",
        "score_column = Unsqueeze(scores, last)",
        "is_class = Equal(label_column, numbers)",
        "all_p = Where(is_class, score_column, nothing)",
    ]


def _scores_of_columns(spec: ForeignSpec, numbers: Sequence[int]) -> list[str]:
    """Into ``all_p`` ``[b, N, C]``."""
    operator = {"none": "Identity(scores)", "sigmoid": "Sigmoid(scores)", "softmax": "Softmax <axis = 2> (scores)"}
    return [
        f"active = {operator[spec.activation]}",
        f"numbers = Constant <value_ints = {list(numbers)}> ()",
        "all_p = Gather <axis = 2> (active, numbers)",
    ]


def _best_rows(rows: int) -> list[str]:
    """Into ``boxes`` and ``p``: the K rows with the best score of a class, ties to the first; NaN counts as nothing."""
    return [
        f"kept = Constant <value_ints = [{rows}]> ()",
        "four = Constant <value_ints = [4]> ()",
        "third_axis = Constant <value_ints = [2]> ()",
        "images_here = Shape <start = 0, end = 1> (inside)",
        "p_classes = Shape <start = 2, end = 3> (all_p)",
        "no_boxes_shape = Concat <axis = 0> (images_here, kept, four)",
        "no_p_shape = Concat <axis = 0> (images_here, kept, p_classes)",
        "no_boxes = Expand(nothing, no_boxes_shape)",
        "no_p = Expand(nothing, no_p_shape)",
        "filled_boxes = Concat <axis = 1> (inside, no_boxes)",
        "filled_p = Concat <axis = 1> (all_p, no_p)",
        "best_or_nan = ReduceMax <keepdims = 0> (filled_p, third_axis)",
        "unknown = IsNaN(best_or_nan)",
        "best = Where(unknown, nothing, best_or_nan)",
        "top, order = TopK <axis = 1> (best, kept)",
        "order_column = Unsqueeze(order, third_axis)",
        "order_boxes = Expand(order_column, no_boxes_shape)",
        "order_p = Expand(order_column, no_p_shape)",
        "boxes = GatherElements <axis = 1> (filled_boxes, order_boxes)",
        "p = GatherElements <axis = 1> (filled_p, order_p)",
    ]


def _nodes(prefix: str, inputs: str, outputs: str, lines: Sequence[str], names: dict[str, str]) -> list[onnx.NodeProto]:
    """The nodes of a text, its names prefixed but for those that ``names`` replaces."""
    body = "\n".join(lines)
    graph = parser.parse_graph(f"piece ({inputs}) => ({outputs}) {{\n{body}\n}}")
    for node in graph.node:
        node.input[:] = [names.get(name, prefix + name) for name in node.input]
        node.output[:] = [names.get(name, prefix + name) for name in node.output]
    return list(graph.node)


def _loop(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, written for ``images`` ``[1, H, W, 3]``, over all pictures of a batch."""
    taken = [
        helper.make_node("Gather", ["images", "loop/number"], ["loop/picture"], axis=0),
        helper.make_node("Unsqueeze", ["loop/picture", "loop/first_axis"], ["loop/images"]),
        helper.make_node("Identity", ["loop/more"], ["loop/again"]),
        helper.make_node("Squeeze", ["loop/boxes", "loop/first_axis"], ["loop/picture_boxes"]),
        helper.make_node("Squeeze", ["loop/p", "loop/first_axis"], ["loop/picture_p"]),
    ]
    inside = {"images": "loop/images", "boxes": "loop/boxes", "p": "loop/p"}
    for node in nodes:
        node.input[:] = [inside.get(name, name) for name in node.input]
        node.output[:] = [inside.get(name, name) for name in node.output]
    kind = TensorProto.FLOAT
    body = helper.make_graph(
        [*taken[:3], *nodes, *taken[3:]],
        "one_picture",
        [
            helper.make_tensor_value_info("loop/number", TensorProto.INT64, []),
            helper.make_tensor_value_info("loop/more", TensorProto.BOOL, []),
        ],
        [
            helper.make_tensor_value_info("loop/again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("loop/picture_boxes", kind, None),
            helper.make_tensor_value_info("loop/picture_p", kind, None),
        ],
    )
    return [
        helper.make_node("Constant", [], ["loop/first_axis"], value_ints=[0]),
        helper.make_node("Shape", ["images"], ["loop/count_list"], start=0, end=1),
        helper.make_node("Squeeze", ["loop/count_list"], ["loop/count"]),
        helper.make_node("Loop", ["loop/count", ""], ["boxes", "p"], body=body),
    ]

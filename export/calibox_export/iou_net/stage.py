"""IoU-Net as two graphs that a bundle's graph is composed of: before the suppression, and after it.

`predictor_stage` gives every candidate its predicted IoU for each class; `refine_stage` moves what was kept uphill.
Maps of levels come as named tensors ``map_0``, ``map_1``, ..., float32 ``[B, F, H_l, W_l]``, finest first.

Letters: B images, K candidates and N detections per image, F features, C classes.
"""

import onnx
from onnx import TensorProto, parser

from calibox_core.manifest import OPSET
from calibox_export.calibrated_nms import DOMAIN, DOMAIN_VERSION
from calibox_export.graph import BATCH, IR_VERSION
from calibox_export.iou_net.pool_gradient import prroi_pool_grad_function
from calibox_export.iou_net.predictor_text import PREFIX, PredictorGraph, map_names
from calibox_export.prroi_pool import prroi_pool_function
from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.spec import RefinementSpec

# The output before the first one: far below any, so that where a box starts counts as a gain.
_LOWEST = -1e30


def predictor_stage(predictor: IouPredictor, levels: Levels, *, height: int, width: int) -> onnx.ModelProto:
    """Predicted IoU of candidates.

    Args:
        predictor: any; its weights go into the graph.
        levels: of the maps.
        height, width: of the image tensor; maps that no box inside it belongs to are not read.

    Returns: a model with the inputs ``map_0``, ..., ``boxes`` float32 ``[B, K, 4]`` in pixels of the image tensor and
        ``p`` float32 ``[B, K, C]``, and the output ``q`` float32 ``[B, K, C]`` in 0..1. A box without area has the q of
        a pooled map of zeros. ``p`` is not read: it says C.
    """
    graph = PredictorGraph(predictor, levels, height=height, width=width)
    text = f"""{graph.constants()}{graph.map_of("boxes")}{graph.pool("boxes")}{graph.hidden()}
  output = Gemm <transB = 1> (second, {PREFIX}output_weight, {PREFIX}output_bias)
  output_shape = Shape(p)
  raw = Reshape <allowzero = 1> (output, output_shape)
  {_iou("raw", "q")}"""
    signature = f"float[{BATCH}, K, 4] boxes, float[{BATCH}, K, {graph.classes}] p"
    return _model("predictor", graph, signature, f"float[{BATCH}, K, {graph.classes}] q", text)


def refine_stage(
    predictor: IouPredictor, levels: Levels, spec: RefinementSpec, *, height: int, width: int
) -> onnx.ModelProto:
    """Algorithm 2 over the kept boxes, equal to `calibox_training.iou_net.refinement.refine`.

    Nothing is computed where no image of the batch asks for a step, and no further step once every box has stopped.

    Args:
        predictor: any; its weights go into the graph.
        levels: of the maps.
        spec: T is the most steps that a request can have.
        height, width: of the image tensor; no box leaves it.

    Returns: a model with the inputs ``map_0``, ..., ``boxes`` float32 ``[B, N, 4]`` in pixels of the image tensor,
        ``labels`` int32 ``[B, N]`` (-1: padding, left as it is), ``refine_steps`` int32 ``[B]`` (above T: T; below 1:
        nothing of the image changes) and ``q`` float32 ``[B, N]``; and the outputs ``refined_boxes`` and
        ``refined_q``, the predicted IoU where a box ended.
    """
    graph = PredictorGraph(predictor, levels, height=height, width=width)
    signature = (
        f"float[{BATCH}, N, 4] boxes, int32[{BATCH}, N] labels, int32[{BATCH}] refine_steps, float[{BATCH}, N] q"
    )
    outputs = f"float[{BATCH}, N, 4] refined_boxes, float[{BATCH}, N] refined_q"
    text = _refine_constants(spec, height=height, width=width)
    text = f"{graph.constants()}{text}{graph.map_of('boxes')}{_START}{_climb(graph)}{_end(keep_worse=spec.keep_worse)}"
    return _model("refinement", graph, signature, outputs, text)


def _model(name: str, graph: PredictorGraph, inputs: str, outputs: str, text: str) -> onnx.ModelProto:
    maps = "".join(
        f"float[{BATCH}, {graph.features}, height_{n}, width_{n}] {m}, " for n, m in enumerate(map_names(graph.levels))
    )
    model = parser.parse_model(
        f'<ir_version: {IR_VERSION}, opset_import: ["" : {OPSET}, "{DOMAIN}" : {DOMAIN_VERSION}]>\n'
        f"{name} ({maps}{inputs}) => ({outputs}) {{{text}\n}}"
    )
    model.graph.initializer.extend(graph.initializers())
    model.functions.extend([prroi_pool_function(), prroi_pool_grad_function()])
    return model


def _iou(raw: str, iou: str) -> str:
    """`predicted_iou` of the training package."""
    return f"""{iou}_moved = Add({raw}, one)
  {iou}_open = Mul({iou}_moved, half)
  {iou} = Clip({iou}_open, zero, one)"""


def _refine_constants(spec: RefinementSpec, *, height: int, width: int) -> str:
    return f"""
  limit = Constant <value_floats = [{width}.0, {height}.0, {width}.0, {height}.0]> ()
  step_size = Constant <value_float = {spec.step_size!r}> ()
  early_stop = Constant <value_float = {spec.early_stop!r}> ()
  tolerance = Constant <value_float = {spec.tolerance!r}> ()
  most_steps = Constant <value_int = {spec.steps}> ()
  climbs = Constant <value_int = {spec.steps + 1}> ()
  none = Constant <value_int = 0> ()
  lowest = Constant <value_float = {_LOWEST!r}> ()"""


# The boxes that may move, and what the climb reads of their classes; bool `moves` [B, N].
_START = f"""
  label_known = Cast <to = {TensorProto.INT64}> (labels)
  label = Max(label_known, none)
  label_rows = Reshape(label, last)
  class_weight = Gather <axis = 0> ({PREFIX}output_weight, label_rows)  # [B * N, U]
  class_bias = Gather <axis = 0> ({PREFIX}output_bias, label)  # [B, N]
  rows_shape = Shape(labels)
  steps_asked = Cast <to = {TensorProto.INT64}> (refine_steps)
  steps_bounded = Min(steps_asked, most_steps)
  steps = Unsqueeze(steps_bounded, last)  # [B, 1]
  asks = Greater(steps, none)
  real = GreaterOrEqual(label_known, none)
  moves = And(asks, real)
  moves_int = Cast <to = {TensorProto.INT64}> (moves)
  moves_count = ReduceSum <keepdims = 0> (moves_int)
  wanted = Greater(moves_count, none)
  boxes_low = Max(boxes, zero)
  start = Min(boxes_low, limit)
  nowhere = Expand(lowest, rows_shape)"""


def _climb(graph: PredictorGraph) -> str:
    """Into ``last_boxes``, ``last_output``, ``best_boxes`` and ``best_output``: where the boxes ended, and were best.

    Each round pools at ``now``, compares with the round before, and steps; T steps are T + 1 rounds.
    """
    return f"""
  last_boxes, last_output, still, best_boxes, best_output = Loop <body = climb (
      int64 taken, bool more, float[] now, float[] before, bool[] active, float[] best_in, float[] best_output_in
  ) => (bool again, float[] next, float[] after, bool[] going, float[] best_out, float[] best_output_out) {{
    active_box = Unsqueeze(active, last){graph.pool("now", "active_box")}{graph.hidden()}
    by_unit = Mul(second, class_weight)
    output_flat = ReduceSum <keepdims = 0> (by_unit, last)
    output_open = Reshape <allowzero = 1> (output_flat, rows_shape)
    output = Add(output_open, class_bias){graph.slopes("class_weight")}{_COMPARE}{_STEP}
    going_int = Cast <to = {TensorProto.INT64}> (going)
    going_count = ReduceSum <keepdims = 0> (going_int)
    again = Greater(going_count, none)
  }}> (climbs, wanted, start, nowhere, moves, start, nowhere)"""


_COMPARE = """
    higher = Greater(output, best_output_in)
    better = And(active, higher)
    better_box = Unsqueeze(better, last)
    best_out = Where(better_box, now, best_in)
    best_output_out = Where(better, output, best_output_in)
    after = Where(active, output, before)
    rise = Sub(output, before)
    gain = Mul(rise, half)  # of IoU
    change = Abs(gain)
    changes = GreaterOrEqual(change, early_stop)
    holds = GreaterOrEqual(gain, tolerance)
    steps_left = Greater(steps, taken)
    on_its_way = And(changes, holds)
    in_time = And(active, steps_left)
    going = And(on_its_way, in_time)"""

_STEP = """
    now_low, now_high = Split <axis = 2> (now, box_parts)
    now_sides_any = Sub(now_high, now_low)
    now_sides = Relu(now_sides_any)
    sides_twice = Concat <axis = 2> (now_sides, now_sides)
    way = Mul(slope, step_size)
    shift = Mul(way, sides_twice)
    moved_open = Add(now, shift)
    moved_low_bound = Max(moved_open, zero)
    moved = Min(moved_low_bound, limit)
    moved_low, moved_high = Split <axis = 2> (moved, box_parts)
    whole = Greater(moved_high, moved_low)
    whole_twice = Concat <axis = 2> (whole, whole)
    going_box = Unsqueeze(going, last)
    steps_there = And(whole_twice, going_box)
    next = Where(steps_there, moved, now)"""


def _end(*, keep_worse: bool) -> str:
    place = "last" if keep_worse else "best"
    return f"""
  moves_box = Unsqueeze(moves, last)
  refined_boxes = Where(moves_box, {place}_boxes, boxes)
  {_iou(f"{place}_output", "ended")}
  refined_q = Where(moves, ended, q)"""

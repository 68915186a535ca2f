"""CalibratedNMS as an ONNX model-local function: domain `calibox`, opset 20, standard operators only.

The body equals `calibox_core.nms` image by image and works on a whole batch. It is written in the ONNX text syntax,
piece by piece in the order of the computation. Letters in its comments: B images, A anchors, C classes, K candidates
that enter the suppression, N detections, T candidates of one tile, R = N + T rows that a tile is tested against.

Neither NonMaxSuppression nor NonZero appears, because not every runtime has them. No K x K matrix is made either: the
candidates are visited in tiles, best first; a tile is tested against the at most N boxes kept so far and against
itself, and the loop ends as soon as no later tile can change the answer.

ONNX Runtime's Log rounds the last elements of a thread's share differently from the others, so two pairs with equal
scores can get keys that differ in the last bit. Keys that need no logarithm are the reference's, bit by bit.
"""

from collections.abc import Sequence

import onnx
from onnx import parser

from calibox_core.manifest import OPSET
from calibox_core.nms import NmsAttributes, OutScore

DOMAIN = "calibox"
OPERATOR = "CalibratedNMS"
DOMAIN_VERSION = 1
# TensorRT 10.15 and later replace a node by a plugin only when the node names the namespace and the version in which
# its creator is registered; the domain does not count.
PLUGIN_NAMESPACE = "calibox"
PLUGIN_VERSION = "1"

INPUTS = ("boxes", "p", "q", "fusion", "score_threshold", "iou_threshold")
DETECTION_OUTPUTS = (
    "num_detections",
    "boxes",
    "labels",
    "classification_scores",
    "localization_scores",
    "scores",
)
CANDIDATE_OUTPUTS = (
    "candidate_boxes",
    "candidate_labels",
    "candidate_classification_scores",
    "candidate_localization_scores",
)
OUTPUTS = (*DETECTION_OUTPUTS, *CANDIDATE_OUTPUTS)

# Candidates of one tile. Small tiles pay for their sixty small operators, large ones for pairs that nobody asks about:
# with all of K = 1000 candidates visited and N = 100, tiles of 16, 32, 64, 128 and 256 took 3.0, 2.0, 1.6, 1.6 and
# 1.9 ms on two CPU cores for one image, and 20, 15, 9, 18 and 26 ms for eight.
_TILE = 64
_LARGEST_FLOAT = "3.4028234663852886e38"
# What is no candidate has minus the largest float as its key; real keys are held above this, whatever the exponents.
_LOWEST_KEY = "-3e38"
_SMALLEST_SCORE = "1.1754943508222875e-38"  # 2^-126, calibox_core.fusion.SMALLEST_SCORE


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
    clustered = attributes.out_score is OutScore.CLASSIFICATION_CLUSTERED
    pieces = (
        _constants(attributes),
        _ANCHOR_KEYS_BY_EVERY_PAIR if quality_per_class else _ANCHOR_KEYS_BY_BEST_CLASS,
        _BEST_ANCHORS,
        _BEST_PAIRS,
        _CANDIDATES,
        _suppression(clustered=clustered),
        _DETECTED_ROWS,
        _REPORTED_SCORE[attributes.out_score],
        _DETECTIONS,
    )
    names = ", ".join((*NmsAttributes.model_fields, "plugin_version", "plugin_namespace"))
    # Inside a function every name is given once, and `boxes` is an input.
    outputs = ", ".join(f"out_{name}" for name in OUTPUTS)
    return parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
        f"{OPERATOR} <{names}> ({', '.join(INPUTS)}) => ({outputs}) {{\n" + "\n".join(pieces) + "\n}"
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


def _tiles(top_k: int) -> int:
    return -(-top_k // _TILE)


def _constants(attributes: NmsAttributes) -> str:
    detections, tile = attributes.max_detections, _TILE
    in_tiles = _tiles(attributes.pre_nms_top_k) * tile
    return f"""
  floor = Constant <value_float = {attributes.candidate_floor!r}> ()
  top_k = Constant <value_ints = [{attributes.pre_nms_top_k}]> ()
  max_detections = Constant <value_ints = [{detections}]> ()
  slots_kept = Constant <value_int = {detections}> ()
  tile_size = Constant <value_ints = [{tile}]> ()
  slots_of_tile = Constant <value_int = {tile}> ()
  slots_end = Constant <value_ints = [{detections + tile}]> ()
  slot_parts = Constant <value_ints = [{detections}, {tile}]> ()
  tiles = Constant <value_int = {in_tiles // tile}> ()
  rounds = Constant <value_int = {tile + 1}> ()
  # One row more than the tiles hold: no candidate ever lies there, so it stands for an empty slot.
  empty_slot = Constant <value_ints = [{in_tiles}]> ()
  rows = Constant <value_ints = [{in_tiles + 1}]> ()
  group_by_label = Constant <value_float = {0.0 if attributes.class_agnostic else 1.0}> ()
  largest = Constant <value_float = {_LARGEST_FLOAT}> ()
  no_key = Constant <value_float = -{_LARGEST_FLOAT}> ()
  lowest_key = Constant <value_float = {_LOWEST_KEY}> ()
  smallest = Constant <value_float = {_SMALLEST_SCORE}> ()
  zero = Constant <value_float = 0.0> ()
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  minus_half = Constant <value_float = -0.5> ()
  minus_one = Constant <value_float = -1.0> ()
  yes = Constant <value = bool {{1}}> ()
  index0 = Constant <value_int = 0> ()
  index1 = Constant <value_int = 1> ()
  index_minus1 = Constant <value_int = -1> ()
  at0 = Constant <value_ints = [0]> ()
  at1 = Constant <value_ints = [1]> ()
  at2 = Constant <value_ints = [2]> ()
  at3 = Constant <value_ints = [3]> ()
  at12 = Constant <value_ints = [1, 2]> ()
  table_columns = Constant <value_ints = [4, 1, 1, 1, 1, 1]> ()
  geometry_columns = Constant <value_ints = [2, 2, 1, 1]> ()
  final_columns = Constant <value_ints = [4, 1, 1, 1, 1]> ()
  blank = Constant <value = float[1, 1, 8] {{0, 0, 0, 0, 0, 0, 0, -1}}> ()  # a row of padding; its label is last
  images = Shape <start = 0, end = 1> (p)
  anchors = Shape <start = 1, end = 2> (p)
  classes = Shape <start = 2, end = 3> (p)
  anchor_exponent_p, anchor_exponent_q, anchor_exponent_miss = Split <axis = 1, num_outputs = 3> (fusion)  # [B, 1]
  exponents = Unsqueeze(fusion, at2)
  exponent_p, exponent_q, exponent_miss = Split <axis = 1, num_outputs = 3> (exponents)  # [B, 1, 1] each"""


def _log_key(name: str, p: str, q: str, exponents: str) -> str:
    """A log p + b log q - g (1 - q)^2 in the order of `calibox_core.fusion.log_key`, into ``name``."""
    return f"""
  {name}_p_clamped = Max({p}, smallest)
  {name}_p_log = Log({name}_p_clamped)
  {name}_p_part = Mul({exponents}_p, {name}_p_log)
  {name}_q_clamped = Max({q}, smallest)
  {name}_q_log = Log({name}_q_clamped)
  {name}_q_part = Mul({exponents}_q, {name}_q_log)
  {name}_scores = Add({name}_p_part, {name}_q_part)
  {name}_miss = Sub(one, {q})
  {name}_miss_squared = Mul({name}_miss, {name}_miss)
  {name}_penalty = Mul({exponents}_miss, {name}_miss_squared)
  {name}_exact = Sub({name}_scores, {name}_penalty)
  {name} = Max({name}_exact, lowest_key)"""


# Comparisons are false for NaN, so the tests below let only finite numbers pass. What is per anchor has two axes, not
# a third of length 1: runtimes walk along the last axis, and one step per element costs ten times the arithmetic.
_ANCHOR_KEYS_BY_BEST_CLASS = f"""
  # q is one per anchor: the key of each anchor's best class decides, A evaluations instead of A x C.
  q_anchor = Squeeze(q, at2)
  # The maximum of numbers with NaN among them is not defined, and testing all A x C costs more than everything else:
  # a finite sum says that nothing needs a test.
  p_sum = ReduceSum <keepdims = 0> (p)
  p_sum_size = Abs(p_sum)
  p_all_finite = LessOrEqual(p_sum_size, largest)
  p_best = If <
    then_branch = best_of_finite () => (float[] best_then) {{
      best_then = ReduceMax <keepdims = 0> (p, at2)
    }},
    else_branch = best_of_any () => (float[] best_else) {{
      p_bounded = LessOrEqual(p, largest)
      p_above = Greater(p, floor)
      p_usable = And(p_bounded, p_above)
      p_clean = Where(p_usable, p, zero)
      best_else = ReduceMax <keepdims = 0> (p_clean, at2)
    }}
  > (p_all_finite)  # [B, A]
  {_log_key("best", "p_best", "q_anchor", "anchor_exponent")}
  best_above = Greater(p_best, floor)
  q_size = Abs(q_anchor)
  q_finite = LessOrEqual(q_size, largest)
  scores_usable = And(best_above, q_finite)
  best_key = Where(scores_usable, best, no_key)"""

_ANCHOR_KEYS_BY_EVERY_PAIR = f"""
  # q differs between the classes of an anchor: every pair has a key of its own.
  p_above = Greater(p, floor)
  p_bounded = LessOrEqual(p, largest)
  q_size = Abs(q)
  q_finite = LessOrEqual(q_size, largest)
  scores_finite = And(p_bounded, q_finite)
  scores_usable = And(p_above, scores_finite)
  {_log_key("every", "p", "q", "exponent")}
  every_key = Where(scores_usable, every, no_key)
  best_key = ReduceMax <keepdims = 0> (every_key, at2)  # [B, A]"""

_BEST_ANCHORS = """
  box_size = Abs(boxes)
  box_bounded = LessOrEqual(box_size, largest)
  box_flags = Cast <to = 1> (box_bounded)
  box_flag = ReduceMin <keepdims = 0> (box_flags, at2)
  box_finite = Greater(box_flag, half)
  anchor_key = Where(box_finite, best_key, no_key)  # [B, A]
  # Every pair among the K best belongs to one of the K best anchors, because keys never fall with p. The second TopK
  # puts the anchors back in the order of their index, so that pairs with equal keys keep theirs.
  anchors_taken = Min(top_k, anchors)
  anchor_key_sorted, anchor_by_key = TopK <axis = 1> (anchor_key, anchors_taken)
  anchor_index, anchor_rank = TopK <axis = 1, largest = 0> (anchor_by_key, anchors_taken)
  anchor_at = Unsqueeze(anchor_index, at2)  # [B, min(K, A), 1]
  some_keys_flat = GatherElements <axis = 1> (anchor_key, anchor_index)
  some_keys = Unsqueeze(some_keys_flat, at2)
  some_boxes = GatherND <batch_dims = 1> (boxes, anchor_at)
  some_p = GatherND <batch_dims = 1> (p, anchor_at)  # [B, min(K, A), C]
  some_q = GatherND <batch_dims = 1> (q, anchor_at)"""

_BEST_PAIRS = f"""
  {_log_key("pair", "some_p", "some_q", "exponent")}
  pair_p_above = Greater(some_p, floor)
  pair_p_bounded = LessOrEqual(some_p, largest)
  pair_p_usable = And(pair_p_above, pair_p_bounded)
  pair_q_size = Abs(some_q)
  pair_q_finite = LessOrEqual(pair_q_size, largest)
  pair_scores_usable = And(pair_p_usable, pair_q_finite)
  pair_anchor_usable = Greater(some_keys, no_key)
  pair_usable = And(pair_scores_usable, pair_anchor_usable)
  pair_keys = Where(pair_usable, pair, no_key)
  pairs = Mul(anchors_taken, classes)
  pairs_taken = Min(top_k, pairs)
  flat = Concat <axis = 0> (images, pairs)
  pair_keys_flat = Reshape <allowzero = 1> (pair_keys, flat)
  key, pair_index = TopK <axis = 1> (pair_keys_flat, pairs_taken)  # [B, min(K, pairs)]
  pair_anchor = Div(pair_index, classes)
  pair_anchor_at = Unsqueeze(pair_anchor, at2)
  pair_boxes = GatherND <batch_dims = 1> (some_boxes, pair_anchor_at)
  p_shape = Shape(some_p)
  q_by_class = Expand(some_q, p_shape)
  p_flat = Reshape <allowzero = 1> (some_p, flat)
  q_flat = Reshape <allowzero = 1> (q_by_class, flat)
  pair_p = GatherElements <axis = 1> (p_flat, pair_index)
  pair_q = GatherElements <axis = 1> (q_flat, pair_index)
  pair_class = Mod(pair_index, classes)
  pair_label = Cast <to = 1> (pair_class)  # exact: far fewer than 2^24 classes"""

_CANDIDATES = """
  # One row per candidate: box, p, q, label, key, and 1 where it is one. Rows up to `rows` are zero.
  pair_live = Greater(key, no_key)
  pair_live_flag = Cast <to = 1> (pair_live)
  column_p = Unsqueeze(pair_p, at2)
  column_q = Unsqueeze(pair_q, at2)
  column_label = Unsqueeze(pair_label, at2)
  column_key = Unsqueeze(key, at2)
  column_live_flag = Unsqueeze(pair_live_flag, at2)
  column_live = Unsqueeze(pair_live, at2)
  found = Concat <axis = 2> (pair_boxes, column_p, column_q, column_label, column_key, column_live_flag)
  found_clean = Where(column_live, found, zero)
  missing = Sub(rows, pairs_taken)
  padding = Concat <axis = 0> (at0, at0, at0, at0, missing, at0)
  table = Pad(found_clean, padding)  # [B, rows, 9]
  row_box, row_p, row_q, row_label, row_key, row_flag = Split <axis = 2> (table, table_columns)
  row_live = Greater(row_flag, half)
  live_count_column = ReduceSum <keepdims = 0> (row_flag, at1)  # [B, 1]
  live_count = Cast <to = 7> (live_count_column)

  row_label_shown = Where(row_live, row_label, minus_one)
  top_box = Slice(row_box, at0, top_k, at1)
  out_candidate_boxes = Identity(top_box)
  top_label = Slice(row_label_shown, at0, top_k, at1)
  top_label_flat = Squeeze(top_label, at2)
  out_candidate_labels = Cast <to = 6> (top_label_flat)
  top_p = Slice(row_p, at0, top_k, at1)
  out_candidate_classification_scores = Squeeze(top_p, at2)
  top_q = Slice(row_q, at0, top_k, at1)
  out_candidate_localization_scores = Squeeze(top_q, at2)"""


def _suppression(*, clustered: bool) -> str:
    """Greedy suppression; ``kept`` holds the rows of the kept candidates in the order of key, then empty slots."""
    state_type = ", float[] cluster_p" if clustered else ""
    return f"""
  # What suppression looks at: x1, y1, x2, y2, area and the group within which boxes compete (-1: no candidate).
  low, high = Split <axis = 2, num_outputs = 2> (row_box)
  extent = Sub(high, low)
  sides = Relu(extent)
  width, height = Split <axis = 2, num_outputs = 2> (sides)
  area = Mul(width, height)
  class_group = Mul(row_label, group_by_label)
  group = Where(row_live, class_group, minus_one)
  geometry = Concat <axis = 2> (row_box, area, group)  # [B, rows, 6]

  threshold = Unsqueeze(iou_threshold, at12)  # [B, 1, 1]
  places = Range(index0, slots_of_tile, index1)  # [T]
  rank_first = Neg(slots_kept)
  ranks = Range(rank_first, slots_of_tile, index1)
  rank_column = Unsqueeze(ranks, at1)  # [R, 1]: kept boxes come before the whole tile
  precedes = Less(rank_column, places)  # [R, T]
  spill = Add(places, max_detections)  # [T]: where what is not kept goes, behind the kept
  tile_shape = Concat <axis = 0> (images, tile_size)
  slots_shape = Concat <axis = 0> (images, max_detections)
  kept_none = Expand(empty_slot, slots_shape)  # [B, N]
  count_shape = Concat <axis = 0> (images, at1)
  count_none = Expand(at0, count_shape)  # [B, 1]
  some_live = Greater(live_count, at0)
  some_live_flag = Cast <to = 6> (some_live)
  any_live_flag = ReduceSum <keepdims = 0> (some_live_flag)
  any_live = Cast <to = 9> (any_live_flag)
  {"cluster_none = Expand(zero, slots_shape)" if clustered else ""}

  kept, count{", cluster_last" if clustered else ""} = Loop <body = resolve_tile (
      int64 tile, bool more, int64[] kept_in, int64[] count_in{state_type}
  ) => (bool again, int64[] kept_out, int64[] count_out{", float[] cluster_out" if clustered else ""}) {{
    first = Mul(tile, tile_size)  # [1]
    member_row = Add(places, first)
    members = Expand(member_row, tile_shape)  # [B, T]
    slots = Concat <axis = 1> (kept_in, members)  # [B, R]
    slot_at = Unsqueeze(slots, at2)
    slot_geometry = GatherND <batch_dims = 1> (geometry, slot_at)
    facing = Transpose <perm = [0, 2, 1]> (slot_geometry)  # [B, 6, R]
    slot_low, slot_high, slot_area, slot_group = Split <axis = 1> (facing, geometry_columns)
    tile_low = Slice(slot_low, max_detections, slots_end, at2)
    tile_high = Slice(slot_high, max_detections, slots_end, at2)
    tile_area = Slice(slot_area, max_detections, slots_end, at2)  # [B, 1, T]
    tile_group = Slice(slot_group, max_detections, slots_end, at2)
    # Common area of every slot (rows) and every candidate of the tile (columns).
    slot_low_column = Unsqueeze(slot_low, at3)
    slot_high_column = Unsqueeze(slot_high, at3)
    tile_low_row = Unsqueeze(tile_low, at2)
    tile_high_row = Unsqueeze(tile_high, at2)
    common_low = Max(slot_low_column, tile_low_row)  # [B, 2, R, T]
    common_high = Min(slot_high_column, tile_high_row)
    common_extent = Sub(common_high, common_low)
    common_sides = Relu(common_extent)
    common_width, common_height = Split <axis = 1, num_outputs = 2> (common_sides)
    common_plane = Mul(common_width, common_height)
    common = Squeeze(common_plane, at1)  # [B, R, T]
    slot_area_column = Transpose <perm = [0, 2, 1]> (slot_area)
    both_areas = Add(slot_area_column, tile_area)
    union = Sub(both_areas, common)
    limit = Mul(threshold, union)
    overlaps = Greater(common, limit)
    slot_group_column = Transpose <perm = [0, 2, 1]> (slot_group)
    competes = Equal(slot_group_column, tile_group)
    matches = And(overlaps, competes)
    removes = And(matches, precedes)
    removes_flag = Cast <to = 1> (removes)
    # A candidate of the tile is kept when no kept box before it removes it. Those that a box of earlier tiles removes
    # are out; among the others the sentence is repeated until it holds: after n rounds the first n are settled.
    removed_by_slot, removed_by_tile = Split <axis = 1> (removes_flag, slot_parts)
    hits_before = ReduceMax(removed_by_slot, at1)  # [B, 1, T]
    free_before = Less(hits_before, half)
    tile_live = Greater(tile_group, minus_half)
    open = And(free_before, tile_live)
    keep = Loop <body = settle (int64 round, bool unsettled, bool[] keep_in) => (bool changed, bool[] keep_out) {{
      keep_flag = Cast <to = 1> (keep_in)
      hits = MatMul(keep_flag, removed_by_tile)
      unhit = Less(hits, half)
      keep_out = And(unhit, open)
      differs = Xor(keep_out, keep_in)
      differs_flag = Cast <to = 6> (differs)
      differences = ReduceSum <keepdims = 0> (differs_flag)
      changed = Cast <to = 9> (differences)
    }}> (rounds, yes, open)  # [B, 1, T]
    # Append the rows of the kept ones; what is not kept, or is one too many, goes behind the N slots.
    kept_here = Squeeze(keep, at1)
    kept_ones = Cast <to = 7> (kept_here)
    kept_before = CumSum <exclusive = 1> (kept_ones, index1)
    place = Add(count_in, kept_before)
    fits = Less(place, max_detections)
    stays = And(kept_here, fits)
    target = Where(stays, place, spill)  # [B, T], no two alike
    slots_filled = ScatterElements <axis = 1> (slots, target, members)
    kept_out = Slice(slots_filled, at0, max_detections, at1)
    kept_more = ReduceSum(kept_ones, at1)
    count_out = Add(count_in, kept_more)
    {_CLUSTER if clustered else ""}
    next = Add(first, tile_size)
    waiting = Less(next, live_count)  # [B, 1]
    {"wanted = Identity(waiting)  # a later candidate can still raise the p of its owner" if clustered else _WANTED}
    wanted_flag = Cast <to = 6> (wanted)
    wanted_count = ReduceSum <keepdims = 0> (wanted_flag)
    again = Cast <to = 9> (wanted_count)
  }}> (tiles, any_live, kept_none, count_none{", cluster_none" if clustered else ""})"""


_WANTED = """
    room = Less(count_out, max_detections)
    wanted = And(waiting, room)"""

_CLUSTER = """
    # The first kept box that removes a candidate owns it and takes its p when that is larger.
    keep_flags = Cast <to = 1> (keep)
    keep_column = Transpose <perm = [0, 2, 1]> (keep_flags)
    tile_claims = Mul(removed_by_tile, keep_column)
    claims = Concat <axis = 1> (removed_by_slot, tile_claims)  # [B, R, T]
    owner = ArgMax <axis = 1> (claims)  # [B, 1, T], the first of equals
    slot_number = Add(rank_column, max_detections)  # [R, 1]
    is_owner = Equal(owner, slot_number)
    claimed = Greater(claims, half)
    owned = And(is_owner, claimed)
    tile_rows = Unsqueeze(members, at2)
    tile_p_column = GatherND <batch_dims = 1> (row_p, tile_rows)
    tile_p_row = Transpose <perm = [0, 2, 1]> (tile_p_column)  # [B, 1, T]
    owned_p = Where(owned, tile_p_row, zero)
    owned_best = ReduceMax <keepdims = 0> (owned_p, at2)  # [B, R]
    tile_p = Squeeze(tile_p_row, at1)
    own_p = Concat <axis = 1> (cluster_p, tile_p)
    best_p = Max(own_p, owned_best)
    best_tile_p = Slice(best_p, max_detections, slots_end, at1)
    cluster_filled = ScatterElements <axis = 1> (best_p, target, best_tile_p)
    cluster_out = Slice(cluster_filled, at0, max_detections, at1)"""

_DETECTED_ROWS = """
  kept_at = Unsqueeze(kept, at2)
  kept_rows = GatherND <batch_dims = 1> (table, kept_at)  # [B, N, 9]
  kept_box, kept_p, kept_q, kept_label, kept_key, kept_flag = Split <axis = 2> (kept_rows, table_columns)"""

_REPORTED_SCORE = {
    OutScore.KEY: "  reported = Exp(kept_key)",
    OutScore.CLASSIFICATION: "  reported = Identity(kept_p)",
    OutScore.CLASSIFICATION_CLUSTERED: "  reported = Unsqueeze(cluster_last, at2)",
}

_DETECTIONS = """
  # Drop reported scores below the threshold and close the gaps, in order.
  score_limit = Unsqueeze(score_threshold, at12)  # [B, 1, 1]
  above = GreaterOrEqual(reported, score_limit)
  kept_live = Greater(kept_flag, half)
  shown = And(above, kept_live)  # [B, N, 1]
  shown_count = Cast <to = 6> (shown)
  out_num_detections = ReduceSum <keepdims = 0> (shown_count, at12)
  falling = Range(slots_kept, index0, index_minus1)  # N .. 1
  falling_float = Cast <to = 1> (falling)
  shown_row = Squeeze(shown, at2)
  order_key = Where(shown_row, falling_float, zero)
  order_sorted, order = TopK <axis = 1> (order_key, max_detections)
  order_at = Unsqueeze(order, at2)
  everything = Concat <axis = 2> (kept_box, kept_p, kept_q, reported, kept_label)
  everything_shown = Where(shown, everything, blank)
  final = GatherND <batch_dims = 1> (everything_shown, order_at)  # [B, N, 8]
  out_boxes, final_p, final_q, final_score, final_label = Split <axis = 2> (final, final_columns)
  out_classification_scores = Squeeze(final_p, at2)
  out_localization_scores = Squeeze(final_q, at2)
  out_scores = Squeeze(final_score, at2)
  final_label_flat = Squeeze(final_label, at2)
  out_labels = Cast <to = 6> (final_label_flat)"""

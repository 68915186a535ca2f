"""Second half of CalibratedNMS as ONNX text: from candidates to detections.

Letters: B images, K candidates, N detections, T candidates of one tile, R = N + T slots: the N that are kept, in the
order of key, and the tile.

No K x K matrix is made. The candidates are visited in tiles, best first; a tile is tested against the boxes kept so
far and against itself, and the loop ends as soon as no later tile can change the answer. The test is
``common > threshold * union`` in float32, as in `calibox_core.nms.suppress`.
"""

from calibox_core.nms import NmsAttributes, OutScore

# Small tiles pay for their sixty small operators, large ones for pairs that nobody asks about: with all of K = 1000
# candidates visited and N = 100, tiles of 16, 32, 64, 128 and 256 took 3.0, 2.0, 1.6, 1.6 and 1.9 ms on two CPU cores
# for one image, and 20, 15, 9, 18 and 26 ms for eight.
TILE = 64


def suppression_text(attributes: NmsAttributes) -> str:
    """Nodes from `found_clean` and the other names of `nms_selection` to the operator's outputs."""
    return "\n".join(
        (
            _constants(attributes),
            _CANDIDATES,
            _GEOMETRY,
            _START,
            _tile_loop(clustered=attributes.out_score is OutScore.CLASSIFICATION_CLUSTERED),
            _DETECTED_ROWS,
            _REPORTED_SCORE[attributes.out_score],
            _DETECTIONS,
        )
    )


def _constants(attributes: NmsAttributes) -> str:
    detections, tiles = attributes.max_detections, -(-attributes.pre_nms_top_k // TILE)
    return f"""
  max_detections = Constant <value_ints = [{detections}]> ()
  slots_kept = Constant <value_int = {detections}> ()
  tile_size = Constant <value_ints = [{TILE}]> ()
  slots_of_tile = Constant <value_int = {TILE}> ()
  slots_end = Constant <value_ints = [{detections + TILE}]> ()
  slot_parts = Constant <value_ints = [{detections}, {TILE}]> ()
  tiles = Constant <value_int = {tiles}> ()
  rounds = Constant <value_int = {TILE + 1}> ()
  # One row more than the tiles hold: no candidate ever lies there, so it stands for an empty slot.
  empty_slot = Constant <value_ints = [{tiles * TILE}]> ()
  rows = Constant <value_ints = [{tiles * TILE + 1}]> ()
  group_by_label = Constant <value_float = {0.0 if attributes.class_agnostic else 1.0}> ()
  minus_half = Constant <value_float = -0.5> ()
  minus_one = Constant <value_float = -1.0> ()
  yes = Constant <value = bool {{1}}> ()
  index0 = Constant <value_int = 0> ()
  index1 = Constant <value_int = 1> ()
  index_minus1 = Constant <value_int = -1> ()
  at0 = Constant <value_ints = [0]> ()
  at1 = Constant <value_ints = [1]> ()
  at3 = Constant <value_ints = [3]> ()
  at12 = Constant <value_ints = [1, 2]> ()
  table_columns = Constant <value_ints = [4, 1, 1, 1, 1, 1]> ()
  geometry_columns = Constant <value_ints = [2, 2, 1, 1]> ()
  final_columns = Constant <value_ints = [4, 1, 1, 1, 1]> ()
  blank = Constant <value = float[1, 1, 8] {{0, 0, 0, 0, 0, 0, 0, -1}}> ()  # a row of padding; its label is last"""


def _tile_loop(*, clustered: bool) -> str:
    """The loop over tiles; its state is `kept`, the rows of the kept candidates and then empty slots, and their count.

    Where scores are clustered the state also holds the largest p among what each kept box removed.
    """
    taken, given, last = (", float[] cluster_p", ", float[] cluster_out", ", cluster_last") if clustered else ("",) * 3
    return f"""
  {"cluster_none = Expand(zero, slots_shape)" if clustered else ""}
  kept, count{last} = Loop <body = resolve_tile (
      int64 tile, bool more, int64[] kept_in, int64[] count_in{taken}
  ) => (bool again, int64[] kept_out, int64[] count_out{given}) {{
    {_OVERLAPS}
    {_KEEP}
    {_APPEND}
    {_CLUSTER if clustered else ""}
    {_GO_ON_FOR_OWNERS if clustered else _GO_ON_FOR_ROOM}
    wanted_flag = Cast <to = 6> (wanted)
    wanted_count = ReduceSum <keepdims = 0> (wanted_flag)
    again = Cast <to = 9> (wanted_count)
  }}> (tiles, any_live, kept_none, count_none{", cluster_none" if clustered else ""})"""


_CANDIDATES = """
  # Zero rows behind the candidates fill the last tile.
  missing = Sub(rows, pairs_taken)
  padding = Concat <axis = 0> (at0, at0, at0, at0, missing, at0)
  table = Pad(found_clean, padding)  # [B, rows, 9]
  row_box, row_p, row_q, row_label, row_key, row_flag = Split <axis = 2> (table, table_columns)
  row_live = Greater(row_flag, half)
  live_count_column = ReduceSum <keepdims = 0> (row_flag, at1)  # [B, 1]
  live_count = Cast <to = 7> (live_count_column)

  row_label_shown = Where(row_live, row_label, minus_one)
  out_candidate_boxes = Slice(row_box, at0, top_k, at1)
  top_label = Slice(row_label_shown, at0, top_k, at1)
  top_label_flat = Squeeze(top_label, at2)
  out_candidate_labels = Cast <to = 6> (top_label_flat)
  top_p = Slice(row_p, at0, top_k, at1)
  out_candidate_classification_scores = Squeeze(top_p, at2)
  top_q = Slice(row_q, at0, top_k, at1)
  out_candidate_localization_scores = Squeeze(top_q, at2)"""

_GEOMETRY = """
  # What suppression looks at: x1, y1, x2, y2, area and the group within which boxes compete (-1: no candidate).
  low, high = Split <axis = 2, num_outputs = 2> (row_box)
  extent = Sub(high, low)
  sides = Relu(extent)
  width, height = Split <axis = 2, num_outputs = 2> (sides)
  area = Mul(width, height)
  class_group = Mul(row_label, group_by_label)
  group = Where(row_live, class_group, minus_one)
  geometry = Concat <axis = 2> (row_box, area, group)  # [B, rows, 6]"""

_START = """
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
  any_live = Cast <to = 9> (any_live_flag)"""

_OVERLAPS = """
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
    removes_flag = Cast <to = 1> (removes)"""

_KEEP = """
    # A candidate of the tile is kept when no kept box before it removes it. Those that a box of earlier tiles removes
    # are out; among the others the sentence is repeated until it holds: after n rounds the first n are settled.
    removed_by_slot, removed_by_tile = Split <axis = 1> (removes_flag, slot_parts)
    hits_before = ReduceMax(removed_by_slot, at1)  # [B, 1, T]
    free_before = Less(hits_before, half)
    tile_live = Greater(tile_group, minus_half)
    open = And(free_before, tile_live)
    keep = Loop <body = settle (int64 round, bool unsettled, bool[] keep_in) => (bool changed, bool[] keep_out) {
      keep_flag = Cast <to = 1> (keep_in)
      hits = MatMul(keep_flag, removed_by_tile)
      unhit = Less(hits, half)
      keep_out = And(unhit, open)
      differs = Xor(keep_out, keep_in)
      differs_flag = Cast <to = 6> (differs)
      differences = ReduceSum <keepdims = 0> (differs_flag)
      changed = Cast <to = 9> (differences)
    }> (rounds, yes, open)  # [B, 1, T]"""

_APPEND = """
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
    count_out = Add(count_in, kept_more)"""

_GO_ON_FOR_ROOM = """
    next = Add(first, tile_size)
    waiting = Less(next, live_count)  # [B, 1]
    room = Less(count_out, max_detections)
    wanted = And(waiting, room)"""

_GO_ON_FOR_OWNERS = """
    # A full image goes on: a later candidate can still raise the p of its owner.
    next = Add(first, tile_size)
    wanted = Less(next, live_count)  # [B, 1]"""

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

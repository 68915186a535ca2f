"""First half of CalibratedNMS as ONNX text: from boxes, p and q to the best pairs (anchor, class).

Letters: B images, A anchors, C classes, K candidates that enter the suppression.

The key of a pair costs two logarithms. Where q is one per anchor they are taken of each anchor's best class and then
of the K best anchors' classes, never of all A x C pairs. A comparison is false for NaN, so the tests below let only
finite numbers pass. What is per anchor has two axes, not a third of length 1: ONNX Runtime walks along the last axis,
and one step per element costs ten times the arithmetic.
"""

from calibox_core.fusion import SMALLEST_SCORE
from calibox_core.nms import NmsAttributes

_LARGEST_FLOAT = "3.4028234663852886e38"
# What is no candidate has minus the largest float as its key; real keys are held above this, whatever the exponents.
_LOWEST_KEY = "-3e38"


def selection_text(attributes: NmsAttributes, *, quality_per_class: bool) -> str:
    """Nodes that end in `found_clean`, float32 ``[B, min(K, pairs), 9]``, best first.

    Its columns are x1, y1, x2, y2, p, q, label, the logarithm of the key, and 1 where the row is a candidate; the
    others are zero. Ties are in the order of anchor * C + class.
    """
    keys = _ANCHOR_KEYS_BY_EVERY_PAIR if quality_per_class else _ANCHOR_KEYS_BY_BEST_CLASS
    return "\n".join((_constants(attributes), keys, _BEST_ANCHORS, _BEST_PAIRS, _FOUND))


def _constants(attributes: NmsAttributes) -> str:
    return f"""
  floor = Constant <value_float = {attributes.candidate_floor!r}> ()
  top_k = Constant <value_ints = [{attributes.pre_nms_top_k}]> ()
  largest = Constant <value_float = {_LARGEST_FLOAT}> ()
  no_key = Constant <value_float = -{_LARGEST_FLOAT}> ()
  lowest_key = Constant <value_float = {_LOWEST_KEY}> ()
  smallest = Constant <value_float = {float(SMALLEST_SCORE)!r}> ()
  zero = Constant <value_float = 0.0> ()
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  at2 = Constant <value_ints = [2]> ()
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

_FOUND = """
  pair_live = Greater(key, no_key)
  pair_live_flag = Cast <to = 1> (pair_live)
  column_p = Unsqueeze(pair_p, at2)
  column_q = Unsqueeze(pair_q, at2)
  column_label = Unsqueeze(pair_label, at2)
  column_key = Unsqueeze(key, at2)
  column_live_flag = Unsqueeze(pair_live_flag, at2)
  column_live = Unsqueeze(pair_live, at2)
  found = Concat <axis = 2> (pair_boxes, column_p, column_q, column_label, column_key, column_live_flag)
  found_clean = Where(column_live, found, zero)"""

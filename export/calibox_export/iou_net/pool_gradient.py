"""The gradient of Precise RoI pooling by its RoIs as an ONNX model-local function, standard operators only.

Equal to the gradient of `calibox_training.iou_net.prroi_pool` by its RoIs: closed forms (`bin_weight_slopes` there).
Its first half is that of `PrRoIPool`, word for word. ONNX Runtime 1.31 computes it twice all the same: it takes the
constants of the two bodies for different ones.

Letters: B images, F features, H x W pixels, K RoIs per image, P x Q bins.
"""

import onnx
from onnx import helper, parser

from calibox_core.manifest import OPSET
from calibox_export.calibrated_nms import DOMAIN, PLUGIN_NAMESPACE, PLUGIN_VERSION
from calibox_export.prroi_pool import ATTRIBUTES, SUMS_BY_ROW

OPERATOR = "PrRoIPoolGrad"


def prroi_pool_grad_function() -> onnx.FunctionProto:
    """The operator's body, one for all levels: bins and scale are attributes of the node.

    Its inputs are features float32 ``[B, F, H, W]``, rois float32 ``[B, K, 4]`` (x1, y1, x2, y2 in pixels of the image)
    and the gradient of the pooled values, float32 ``[B, K, F, P, Q]``; its output is that of the rois, float32
    ``[B, K, 4]`` per pixel of the image. A RoI without area, or with NaN in it, gives 0.
    """
    return parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
        f"{OPERATOR} <{', '.join(ATTRIBUTES)}> (features, rois, gradient) => (rois_gradient) {{\n"
        f"{SUMS_BY_ROW}{_WEIGHT_GRADIENTS}{_edges('y')}{_edges('x')}{_BY_COORDINATE}\n}}"
    )


def prroi_pool_grad_node(
    features: str, rois: str, gradient: str, rois_gradient: str, *, output_size: tuple[int, int], spatial_scale: float
) -> onnx.NodeProto:
    """The node that calls the function.

    Args:
        features, rois, gradient, rois_gradient: the graph's names for the inputs and the output.
        output_size: P, Q.
        spatial_scale: map pixels per image pixel, 1 / stride.
    """
    return helper.make_node(
        OPERATOR,
        [features, rois, gradient],
        [rois_gradient],
        domain=DOMAIN,
        pooled_height=output_size[0],
        pooled_width=output_size[1],
        spatial_scale=float(spatial_scale),
        plugin_version=PLUGIN_VERSION,
        plugin_namespace=PLUGIN_NAMESPACE,
    )


# Into `y_gradient` [B, K, P, H] and `x_gradient` [B, K, Q, W], those of the bins' weights.
_WEIGHT_GRADIENTS = """
  x_count = Reshape(x_bins, last)
  gradient_by_row = Transpose <perm = [0, 1, 3, 2, 4]> (gradient)
  gradient_shape = Concat <axis = 0> (images, rois_per_image, features_of_roi, x_count)
  gradient_rows = Reshape <allowzero = 1> (gradient_by_row, gradient_shape)  # [B, K, P * F, Q]
  gradient_turned = Transpose <perm = [0, 1, 3, 2]> (gradient_rows)
  x_gradient = MatMul(gradient_turned, sums)
  spread = MatMul(gradient_rows, x_weights)  # [B, K, P * F, W]
  spread_shape = Concat <axis = 0> (images, rows, row_numbers)
  spread_rows = Reshape <allowzero = 1> (spread, spread_shape)  # [B, K * P, F * W]
  map_columns = Transpose <perm = [0, 2, 1]> (map_rows)
  y_gradient_flat = MatMul(spread_rows, map_columns)
  y_gradient_shape = Concat <axis = 0> (images, rois_per_image, y_count, height)
  y_gradient = Reshape <allowzero = 1> (y_gradient_flat, y_gradient_shape)
  slope_most = Neg(half)"""


def _edges(axis: str) -> str:
    """Into ``{axis}_by_low`` and ``{axis}_by_high``, ``[B, K, 1]``: the gradients of a RoI's ends, per map pixel.

    With w the mean of the hat over a bin [a, b]: dw/da = (w - hat(a)) / (b - a) and dw/db = (hat(b) - w) / (b - a).
    Edge k of a RoI's bins lies at low + (high - low) * k / bins.
    """
    return f"""{_end(axis, "low", "from")}{_end(axis, "high", "to")}
  {axis}_lower = Mul({axis}_low_edges, {axis}_share_low)
  {axis}_upper = Mul({axis}_high_edges, {axis}_share_high)
  {axis}_far_parts = Add({axis}_lower, {axis}_upper)
  {axis}_by_high = ReduceSum({axis}_far_parts, last)
  {axis}_all_parts = Add({axis}_low_edges, {axis}_high_edges)
  {axis}_all = ReduceSum({axis}_all_parts, last)
  {axis}_by_low = Sub({axis}_all, {axis}_by_high)"""


def _end(axis: str, end: str, place: str) -> str:
    """Into ``{axis}_{end}_edges``, ``[B, K, bins]``: the gradients of the bins' lower or upper edges."""
    name = f"{axis}_{end}"
    minuend, subtrahend = (f"{axis}_mean", f"{name}_hat") if end == "low" else (f"{name}_hat", f"{axis}_mean")
    # A hat is nowhere steeper than 1, so its mean differs from an end by at most half of the length: what is steeper is
    # rounding in a very short bin.
    return f"""
  {name}_distance = Abs({axis}_{place})
  {name}_fall = Sub(one, {name}_distance)
  {name}_hat = Relu({name}_fall)
  {name}_rise = Sub({minuend}, {subtrahend})
  {name}_steep = Div({name}_rise, {axis}_safe)
  {name}_slope_any = Clip({name}_steep, slope_most, half)
  {name}_slope = Where({axis}_used, {name}_slope_any, zero)
  {name}_parts = Mul({name}_slope, {axis}_gradient)
  {name}_edges = ReduceSum <keepdims = 0> ({name}_parts, last)"""


_BY_COORDINATE = """
  on_map_gradient = Concat <axis = 2> (x_by_low, y_by_low, x_by_high, y_by_high)
  rois_gradient = Mul(on_map_gradient, scale)"""

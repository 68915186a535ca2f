"""Precise RoI pooling as an ONNX model-local function: domain `calibox`, opset 20, standard operators only.

Equal to `calibox_training.iou_net.prroi_pool`, for graphs that hold as many RoIs for each image as for any other: the
maps of a batch are then read where they are, by one matrix product per image and a small one per RoI. It reads whole
maps, so the cost of a RoI is P * H * W * F products; the tensor between the two products is K * P * F * W numbers per
image.

Letters: B images, F features, H x W pixels, K RoIs per image, P x Q bins.
"""

import onnx
from onnx import TensorProto, helper, parser

from calibox_core.manifest import OPSET
from calibox_export.calibrated_nms import DOMAIN, DOMAIN_VERSION, PLUGIN_NAMESPACE, PLUGIN_VERSION
from calibox_export.graph import BATCH, IR_VERSION

OPERATOR = "PrRoIPool"
ATTRIBUTES = ("pooled_height", "pooled_width", "spatial_scale", "plugin_version", "plugin_namespace")


def prroi_pool_function() -> onnx.FunctionProto:
    """The operator's body, one for all levels: bins and scale are attributes of the node.

    Its inputs are features float32 ``[B, F, H, W]`` and rois float32 ``[B, K, 4]`` (x1, y1, x2, y2 in pixels of the
    image); its output is float32 ``[B, K, F, P, Q]``. A RoI without area, or with NaN in it, gives 0.
    """
    return parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>\n'
        f"{OPERATOR} <{', '.join(ATTRIBUTES)}> (features, rois) => (pooled) {{\n"
        f"{SUMS_BY_ROW}{_PRODUCT}\n}}"
    )


def prroi_pool_node(
    features: str, rois: str, pooled: str, *, output_size: tuple[int, int], spatial_scale: float
) -> onnx.NodeProto:
    """The node that calls the function.

    Args:
        features, rois, pooled: the graph's names for the inputs and the output.
        output_size: P, Q.
        spatial_scale: map pixels per image pixel, 1 / stride.
    """
    return helper.make_node(
        OPERATOR,
        [features, rois],
        [pooled],
        domain=DOMAIN,
        pooled_height=output_size[0],
        pooled_width=output_size[1],
        spatial_scale=float(spatial_scale),
        plugin_version=PLUGIN_VERSION,
        plugin_namespace=PLUGIN_NAMESPACE,
    )


def prroi_pool_model(*, output_size: tuple[int, int], spatial_scale: float) -> onnx.ModelProto:
    """A checked model of the operator alone, to test and to measure it."""
    node = prroi_pool_node("features", "rois", "pooled", output_size=output_size, spatial_scale=spatial_scale)
    kind = TensorProto.FLOAT
    graph = helper.make_graph(
        [node],
        "operator",
        [
            helper.make_tensor_value_info("features", kind, [BATCH, "features", "height", "width"]),
            helper.make_tensor_value_info("rois", kind, [BATCH, "rois", 4]),
        ],
        [helper.make_tensor_value_info("pooled", kind, [BATCH, "rois", "features", *output_size])],
    )
    model = helper.make_model(
        graph,
        functions=[prroi_pool_function()],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


_CONSTANTS = """
  zero = Constant <value_float = 0.0> ()
  half = Constant <value_float = 0.5> ()
  one = Constant <value_float = 1.0> ()
  minus_one = Constant <value_float = -1.0> ()
  count_from = Constant <value_int = 0> ()
  count_by = Constant <value_int = 1> ()
  last = Constant <value_ints = [-1]> ()
  scale = Constant <value_float: float = @spatial_scale> ()
  images = Shape <start = 0, end = 1> (features)
  channels = Shape <start = 1, end = 2> (features)
  height = Shape <start = 2, end = 3> (features)
  width = Shape <start = 3, end = 4> (features)
  rois_per_image = Shape <start = 1, end = 2> (rois)
  on_map = Mul(rois, scale)
  x_low, y_low, x_high, y_high = Split <axis = 2, num_outputs = 4> (on_map)  # [B, K, 1] each"""


def _weights(axis: str, *, side: str) -> str:
    """Into ``{axis}_weights``: the mean of each pixel's hat over each bin, ``[B, K, bins, pixels]``.

    As `bin_weights` of the training package: the trapezoids left and right of the hat's top, by the bin's length.
    """
    return f"""
  {axis}_bins = Constant <value_int: int = @pooled_{side}> ()
  {axis}_bins_float = Cast <to = 1> ({axis}_bins)
  {axis}_bin = Range(count_from, {axis}_bins, count_by)
  {axis}_bin_float = Cast <to = 1> ({axis}_bin)
  {axis}_next_bin = Add({axis}_bin_float, one)
  {axis}_share_low = Div({axis}_bin_float, {axis}_bins_float)
  {axis}_share_high = Div({axis}_next_bin, {axis}_bins_float)
  {axis}_side = Sub({axis}_high, {axis}_low)
  {axis}_offset_low = Mul({axis}_side, {axis}_share_low)
  {axis}_offset_high = Mul({axis}_side, {axis}_share_high)
  {axis}_edge_low_flat = Add({axis}_low, {axis}_offset_low)
  {axis}_edge_high_flat = Add({axis}_low, {axis}_offset_high)  # [B, K, bins]
  {axis}_edge_low = Unsqueeze({axis}_edge_low_flat, last)
  {axis}_edge_high = Unsqueeze({axis}_edge_high_flat, last)
  {axis}_pixels = Squeeze({side})
  {axis}_pixel = Range(count_from, {axis}_pixels, count_by)
  {axis}_pixel_float = Cast <to = 1> ({axis}_pixel)
  {axis}_from = Sub({axis}_edge_low, {axis}_pixel_float)
  {axis}_to = Sub({axis}_edge_high, {axis}_pixel_float)  # [B, K, bins, pixels]
{_trapezoid(f"{axis}_left", axis, clip="minus_one, zero", slope="Add")}
{_trapezoid(f"{axis}_right", axis, clip="zero, one", slope="Sub")}
  {axis}_integral = Add({axis}_left, {axis}_right)
  {axis}_length = Sub({axis}_to, {axis}_from)
  {axis}_used = Greater({axis}_length, zero)
  {axis}_safe = Where({axis}_used, {axis}_length, one)
  {axis}_mean = Div({axis}_integral, {axis}_safe)
  {axis}_weights = Where({axis}_used, {axis}_mean, zero)"""


def _trapezoid(name: str, axis: str, *, clip: str, slope: str) -> str:
    """Into ``name``: the integral of the hat on one side of its top, its length by its height in the middle."""
    return f"""
  {name}_from = Clip({axis}_from, {clip})
  {name}_to = Clip({axis}_to, {clip})
  {name}_length = Sub({name}_to, {name}_from)
  {name}_ends = Add({name}_to, {name}_from)
  {name}_middle = Mul({name}_ends, half)
  {name}_height = {slope}(one, {name}_middle)
  {name} = Mul({name}_length, {name}_height)"""


SUMS_BY_ROW = f"""{_CONSTANTS}{_weights("y", side="height")}{_weights("x", side="width")}
  y_count = Reshape(y_bins, last)
  rows = Mul(rois_per_image, y_count)
  y_shape = Concat <axis = 0> (images, rows, height)
  y_rows = Reshape <allowzero = 1> (y_weights, y_shape)
  by_row = Transpose <perm = [0, 2, 1, 3]> (features)
  row_numbers = Mul(channels, width)
  by_row_shape = Concat <axis = 0> (images, height, row_numbers)
  map_rows = Reshape <allowzero = 1> (by_row, by_row_shape)  # [B, H, F * W]
  sums_flat = MatMul(y_rows, map_rows)  # [B, K * P, F * W]
  features_of_roi = Mul(channels, y_count)
  sums_shape = Concat <axis = 0> (images, rois_per_image, features_of_roi, width)
  sums = Reshape <allowzero = 1> (sums_flat, sums_shape)  # [B, K, P * F, W]"""
# Nodes from features and rois to `sums`, the maps summed over the rows of each bin, and what they are made of; the
# gradient begins with the same.

_PRODUCT = """
  x_count = Reshape(x_bins, last)
  x_turned = Transpose <perm = [0, 1, 3, 2]> (x_weights)
  pooled_flat = MatMul(sums, x_turned)  # [B, K, P * F, Q]
  pooled_shape = Concat <axis = 0> (images, rois_per_image, y_count, channels, x_count)
  pooled_by_row = Reshape <allowzero = 1> (pooled_flat, pooled_shape)
  pooled = Transpose <perm = [0, 1, 3, 2, 4]> (pooled_by_row)"""

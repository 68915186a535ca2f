"""The predictor as ONNX text: pooling from the levels of a pyramid, the layers, and the way back to the boxes.

Letters: B images, R boxes per image, F features, P x P bins, Z = F * P * P numbers of a box, U units, C classes.
"""

from dataclasses import dataclass
from typing import Any

import onnx
from onnx import numpy_helper, printer

from calibox_export.iou_net.pool_gradient import prroi_pool_grad_node
from calibox_export.prroi_pool import prroi_pool_node
from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.predictor import IouPredictor

# Names of the weights in a graph; stages that lie in one graph share them.
PREFIX = "iou_net_"
_LAYERS = {"hidden.1": "first", "hidden.3": "second", "output": "output"}
# The side of the boxes that belong to P4 begins here, in pixels: FPN, arXiv 1612.03144, eq. 1.
_CANONICAL = 224


def map_names(levels: Levels) -> tuple[str, ...]:
    """Names of the maps, finest first."""
    return tuple(f"map_{position}" for position in range(len(levels.scales)))


@dataclass(frozen=True, slots=True)
class PredictorGraph:
    """A predictor, and the maps that boxes of an image of ``height`` x ``width`` pixels can belong to."""

    predictor: IouPredictor
    levels: Levels
    height: int
    width: int

    @property
    def bins(self) -> int:
        """P."""
        return self.predictor.spec.pooled

    @property
    def numbers(self) -> int:
        """Z."""
        return self.predictor.get_parameter("hidden.1.weight").shape[1]

    @property
    def features(self) -> int:
        """F."""
        return self.numbers // self.bins**2

    @property
    def classes(self) -> int:
        """C."""
        return self.predictor.output.out_features

    @property
    def least_areas(self) -> tuple[float, ...]:
        """Area from which on a box belongs to the second map, the third, ..., as far as a box in the image reaches."""
        sides = (_CANONICAL * 2.0 ** (level - 4) for level in range(self.levels.lowest + 1, self.levels.highest + 1))
        return tuple(side**2 for side in sides if side**2 <= self.height * self.width)

    @property
    def reached(self) -> range:
        """Positions of the maps that any box belongs to."""
        return range(len(self.least_areas) + 1)

    def initializers(self) -> list[onnx.TensorProto]:
        """The weights, as torch lays them out, float32; those of the second layer turned as well.

        OpenVINO 2026.4 on the CPU takes a square matrix that one product reads as it is and another one transposed for
        the same in both, and answers wrongly without a word.
        """
        weights = {
            f"{name}_{kind}": getattr(self.predictor.get_submodule(module), kind)
            for module, name in _LAYERS.items()
            for kind in ("weight", "bias")
        }
        weights["second_turned"] = weights["second_weight"].T
        return [
            numpy_helper.from_array(value.detach().float().cpu().contiguous().numpy(), PREFIX + name)
            for name, value in weights.items()
        ]

    def constants(self) -> str:
        """What the other texts name."""
        # No box is as large as the last area, so that every map has one behind it.
        areas = enumerate((*self.least_areas, 1e30), start=1)
        least = "".join(f"\n  least_area_{n} = Constant <value_float = {area!r}> ()" for n, area in areas)
        return f"""
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  half = Constant <value_float = 0.5> ()
  last = Constant <value_ints = [-1]> ()
  numbers_shape = Constant <value_ints = [-1, {self.numbers}]> ()
  box_parts = Constant <value_ints = [2, 2]> (){least}"""

    def map_of(self, boxes: str) -> str:
        """Into ``here_0``, ...: bool ``[B, R, 1]``, whether a box is pooled from this map; NaN is from the finest."""
        # A box reaches the areas in turn: it is on the map of the last one that it reaches.
        at_least = "".join(
            f"\n  at_least_{n} = GreaterOrEqual(area, least_area_{n})" for n in range(1, len(self.reached) + 1)
        )
        others = "".join(f"\n  here_{n} = Xor(at_least_{n}, at_least_{n + 1})" for n in self.reached[1:])
        return f"""
  low, high = Split <axis = 2> ({boxes}, box_parts)
  sides_any = Sub(high, low)
  sides = Relu(sides_any)
  box_width, box_height = Split <axis = 2, num_outputs = 2> (sides)
  area = Mul(box_width, box_height){at_least}
  here_0 = Not(at_least_1){others}"""

    def pool(self, boxes: str, chosen: str = "") -> str:
        """Into ``numbers``, ``[B * R, Z]``: the boxes, each pooled from its map.

        Args:
            boxes: name of float32 ``[B, R, 4]``.
            chosen: name of bool ``[B, R, 1]``; the other boxes pool 0. All are pooled without it.
        """
        text = ""
        for n in self.reached:
            # A box without area weighs nothing on a map.
            mask = f"And(here_{n}, {chosen})" if chosen else f"Identity(here_{n})"
            node = prroi_pool_node(f"map_{n}", f"rois_{n}", f"pooled_{n}", **self._pooling(n))
            text += f"""
  taken_{n} = {mask}
  rois_{n} = Where(taken_{n}, {boxes}, zero)
  {printer.to_text(node)}"""
        return f"""{text}
  pooled = Sum({", ".join(f"pooled_{n}" for n in self.reached)})
  numbers = Reshape(pooled, numbers_shape)"""

    def _pooling(self, level: int) -> dict[str, Any]:
        return {"output_size": (self.bins, self.bins), "spatial_scale": self.levels.scales[level]}

    @staticmethod
    def hidden() -> str:
        """Into ``second``, ``[B * R, U]``: both hidden layers."""
        return f"""
  first_raw = Gemm <transB = 1> (numbers, {PREFIX}first_weight, {PREFIX}first_bias)
  first = Relu(first_raw)
  second_raw = Gemm <transB = 1> (first, {PREFIX}second_weight, {PREFIX}second_bias)
  second = Relu(second_raw)"""

    def slopes(self, by_second: str) -> str:
        """Into ``slope``, ``[B, R, 4]``: the gradient by the boxes that `pool` took, per pixel of the image.

        Args:
            by_second: name of the gradient by ``second``, ``[B * R, U]``.
        """
        text = f"""
  second_open = Greater(second_raw, zero)
  by_second_raw = Where(second_open, {by_second}, zero)
  by_first = Gemm <transB = 1> (by_second_raw, {PREFIX}second_turned)
  first_open = Greater(first_raw, zero)
  by_first_raw = Where(first_open, by_first, zero)
  by_numbers = MatMul(by_first_raw, {PREFIX}first_weight)
  pooled_shape = Shape(pooled)
  by_pooled = Reshape <allowzero = 1> (by_numbers, pooled_shape)"""
        for n in self.reached:
            node = prroi_pool_grad_node(f"map_{n}", f"rois_{n}", "by_pooled", f"slope_{n}", **self._pooling(n))
            text += f"\n  {printer.to_text(node)}"
        return f"{text}\n  slope = Sum({', '.join(f'slope_{n}' for n in self.reached)})"

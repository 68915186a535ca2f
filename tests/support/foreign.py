"""A foreign detector as an ONNX file, made on the spot: it finds the extent of red and of blue in a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import parser

from tests.support.coco import SIZE

HEIGHT, WIDTH = SIZE
SCORES = (0.9, 0.8)  # of red and of blue, where there is any


@dataclass(frozen=True, slots=True, kw_only=True)
class ColourDetector:
    """What the file looks like."""

    layout: Literal["nchw", "nhwc", "chw", "hwc"] = "chw"
    batch: str = "1"  # of a layout with n: 1, or a name where any number goes
    form: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    fraction: bool = False
    offset: int = 1
    dense: bool = False  # a score per box and class, instead of lists of what was found
    kind: str = "float"  # uint8: 0..255
    height: str = str(HEIGHT)
    opset: int = 20
    logits: bool = False  # of dense scores

    def save(self, path: Path) -> Path:
        """Writes the model."""
        onnx.save(self.model(), path)
        return path

    def model(self) -> onnx.ModelProto:
        """A checked model with the input ``picture``."""
        sizes = {"n": self.batch, "c": "3", "h": self.height, "w": str(WIDTH)}
        axes = ", ".join(sizes[axis] for axis in self.layout)
        outputs = (
            f"float[{self._batch}, 2, 4] where_, float[{self._batch}, 2, {self.offset + 2}] how_sure"
            if self.dense
            else "float[found, 4] where_, float[found] how_sure, int64[found] what"
        )
        text = f"""<ir_version: 8, opset_import: ["" : {self.opset}]>
          colours ({self.kind}[{axes}] picture) => ({outputs}) {{{self._look()}{self._boxes()}
            {self._dense() if self.dense else self._list()}}}"""
        model = parser.parse_model(text)
        onnx.checker.check_model(model)
        return model

    @property
    def _batch(self) -> str:
        return self.batch if "n" in self.layout else "1"

    def _look(self) -> str:
        limit = "165.0" if self.kind == "uint8" else "0.65"  # 200 of 255 is a colour, 128 the ground
        lacks = "n" not in self.layout
        perm = [0, 3, 1, 2] if self.layout.endswith("hwc") else [0, 1, 2, 3]
        return f"""
            first = Constant <value_ints = [0]> ()
            pixels = Cast <to = 1> (picture)
            pictures = {"Unsqueeze(pixels, first)" if lacks else "Identity(pixels)"}
            planes = Transpose <perm = {perm}> (pictures)
            chosen = Constant <value_ints = [0, 2]> ()
            colours = Gather <axis = 1> (planes, chosen)
            limit = Constant <value_float = {limit}> ()
            there = Greater(colours, limit)
            mask = Cast <to = 1> (there)
            columns = MaxPool <kernel_shape = [{HEIGHT}, 1], strides = [1, 1]> (mask)
            rows = MaxPool <kernel_shape = [1, {WIDTH}], strides = [1, 1]> (mask)
            any = MaxPool <kernel_shape = [{HEIGHT}, {WIDTH}]> (mask)"""

    def _boxes(self) -> str:
        """Into ``boxes`` [b, 2, 4] and ``scores`` [b, 2]."""
        unit = [WIDTH, HEIGHT, WIDTH, HEIGHT] if self.fraction else [1, 1, 1, 1]
        parts = {
            "xyxy": "low, high",
            "xywh": "low, side",
            "cxcywh": "centre, side",
        }[self.form]
        return f"""
            one = Constant <value_float = 1.0> ()
            half = Constant <value_float = 0.5> ()
            pair = Constant <value_ints = [0, 2, 1]> ()
            left = ArgMax <axis = 3, keepdims = 1> (columns)
            top = ArgMax <axis = 2, keepdims = 1> (rows)
            last_left = ArgMax <axis = 3, keepdims = 1, select_last_index = 1> (columns)
            last_top = ArgMax <axis = 2, keepdims = 1, select_last_index = 1> (rows)
            low_whole = Concat <axis = 3> (left, top)
            last_whole = Concat <axis = 3> (last_left, last_top)
            low_4 = Cast <to = 1> (low_whole)
            last_4 = Cast <to = 1> (last_whole)
            row_shape = Constant <value_ints = [0, 2, 2]> ()
            low = Reshape(low_4, row_shape)
            last = Reshape(last_4, row_shape)
            high = Add(last, one)
            side = Sub(high, low)
            both = Add(low, high)
            centre = Mul(both, half)
            in_pixels = Concat <axis = 2> ({parts})
            unit = Constant <value_floats = {[float(side) for side in unit]}> ()
            boxes = Div(in_pixels, unit)
            score_shape = Constant <value_ints = [0, 2]> ()
            any_flat = Reshape(any, score_shape)
            sure = Constant <value_floats = {list(SCORES)}> ()
            scores = Mul(any_flat, sure)"""

    def _dense(self) -> str:
        """One column per class number, those below the offset never sure."""
        eye = np.eye(2, self.offset + 2, k=self.offset, dtype=np.float32)
        weights = ", ".join(str(float(value)) for value in eye.ravel())
        return f"""
            last_axis = Constant <value_ints = [-1]> ()
            score_column = Unsqueeze(scores, last_axis)
            eye_flat = Constant <value_floats = [{weights}]> ()
            eye_shape = Constant <value_ints = [2, {self.offset + 2}]> ()
            eye = Reshape(eye_flat, eye_shape)
            by_class = Mul(score_column, eye)
            eight = Constant <value_float = 8.0> ()
            lifted = Sub(by_class, half)
            wide = Mul(lifted, eight)
            how_sure = {"Identity(wide)" if self.logits else "Identity(by_class)"}
            where_ = Identity(boxes)"""

    def _list(self) -> str:
        """Only what was found."""
        return f"""
            alone = Squeeze(boxes, first)
            alone_scores = Squeeze(scores, first)
            zero = Constant <value_float = 0.0> ()
            found = Greater(alone_scores, zero)
            numbers = Constant <value_ints = [{self.offset}, {self.offset + 1}]> ()
            where_ = Compress <axis = 0> (alone, found)
            how_sure = Compress <axis = 0> (alone_scores, found)
            what = Compress <axis = 0> (numbers, found)"""


def colours_of(image: NDArray[np.uint8]) -> list[tuple[int, list[float], float]]:
    """What the detector must find in uint8 ``[H, W, 3]``, pixel by pixel: label from 0, x1 y1 x2 y2, score."""
    found = []
    for label, channel in enumerate((0, 2)):
        places = [(x, y) for y in range(HEIGHT) for x in range(WIDTH) if image[y, x, channel] > 165]
        if places:
            xs, ys = [x for x, _ in places], [y for _, y in places]
            found.append((label, [min(xs), min(ys), max(xs) + 1, max(ys) + 1], SCORES[label]))
    return found

"""The one letterbox of the project: server, training's evaluation and tests all use it.

scale = min(W/w, H/h), centred, the rest filled with a grey of 114, sizes rounded half up.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import Floats
from calibox_core.errors import InvalidParameterError

PAD_VALUE = 114  # mid grey, the common choice of one-stage detectors


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where an image of ``width`` x ``height`` lies inside an input of ``input_width`` x ``input_height`` (pixels)."""

    width: int
    height: int
    input_width: int
    input_height: int
    scaled_width: int
    scaled_height: int
    left: int
    top: int

    @classmethod
    def fit(cls, *, width: int, height: int, input_width: int, input_height: int) -> Self:
        """Arithmetic alone, no pixels.

        Raises:
            InvalidParameterError: a side is not positive.
        """
        if min(width, height, input_width, input_height) < 1:
            raise InvalidParameterError(
                f"letterbox needs sides of at least 1 pixel, got image {width}x{height} "
                f"and input {input_width}x{input_height}"
            )
        # The scale as a fraction up / down: in floats an exact half can fall short (57 * (416 / 192) is 123.49999...).
        up, down = (input_width, width) if input_width * height <= input_height * width else (input_height, height)
        scaled_width = max(1, (2 * width * up + down) // (2 * down))
        scaled_height = max(1, (2 * height * up + down) // (2 * down))
        return cls(
            width=width,
            height=height,
            input_width=input_width,
            input_height=input_height,
            scaled_width=scaled_width,
            scaled_height=scaled_height,
            left=(input_width - scaled_width) // 2,
            top=(input_height - scaled_height) // 2,
        )

    def to_input(self, boxes: Floats) -> Floats:
        """Boxes ``[..., 4]`` of the image to letterboxed pixels."""
        scale, offset, _ = self._mapping(boxes.dtype)
        mapped: Floats = boxes * scale + offset
        return mapped

    def to_image(self, boxes: Floats) -> Floats:
        """Boxes ``[..., 4]`` in letterboxed pixels back to the image, clipped to it."""
        scale, offset, corner = self._mapping(boxes.dtype)
        mapped: Floats = boxes - offset
        mapped /= scale
        # In place and by the functions themselves: boxes are few, and `clip` takes as long as all the rest.
        np.maximum(mapped, 0, out=mapped)
        return np.minimum(mapped, corner, out=mapped)

    def _mapping(self, dtype: np.dtype[Any]) -> tuple[Floats, Floats, Floats]:
        """Scale, offset and the image's lower right corner, each for x1, y1, x2, y2."""
        return _mapping(self.width, self.height, self.scaled_width, self.scaled_height, self.left, self.top, dtype)


@lru_cache(maxsize=256)  # images of one source have one size
def _mapping(
    width: int, height: int, scaled_width: int, scaled_height: int, left: int, top: int, dtype: np.dtype[Any]
) -> tuple[Floats, Floats, Floats]:
    scale, offset, corner = (scaled_width / width, scaled_height / height), (left, top), (width, height)
    arrays = tuple(np.array(pair * 2, dtype) for pair in (scale, offset, corner))
    for array in arrays:
        array.flags.writeable = False  # they are shared
    return arrays[0], arrays[1], arrays[2]


def letterbox_into(slot: NDArray[np.uint8], image: NDArray[np.uint8], *, pad_value: int = PAD_VALUE) -> Letterbox:
    """Resizes ``image`` (uint8 ``[h, w, 3]``) bilinearly into ``slot`` (uint8 ``[H, W, 3]``) without another copy.

    Returns: the geometry that maps boxes back.
    """
    import cv2

    placed = Letterbox.fit(
        width=image.shape[1], height=image.shape[0], input_width=slot.shape[1], input_height=slot.shape[0]
    )
    bottom, right = placed.top + placed.scaled_height, placed.left + placed.scaled_width
    slot[: placed.top] = pad_value
    slot[bottom:] = pad_value
    slot[placed.top : bottom, : placed.left] = pad_value
    slot[placed.top : bottom, right:] = pad_value
    inside = slot[placed.top : bottom, placed.left : right]
    # Of just this size and type, so that OpenCV writes where it lies; an image that needs no scaling is copied.
    cv2.resize(image, (placed.scaled_width, placed.scaled_height), dst=inside, interpolation=cv2.INTER_LINEAR)
    return placed

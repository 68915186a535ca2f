"""Shapes of the maps that a head sees, from the layers' arithmetic alone."""

from typing import NamedTuple

from calibox_training.model_spec import ModelSpec

STRIDES = (8, 16, 32, 64, 128)  # P3 to P7


class ExtraLayer(NamedTuple):
    """A 1x1 convolution and a wider one behind it, both with ReLU, without batch norm."""

    inner: int  # channels of the 1x1 convolution
    channels: int
    kernel: int
    stride: int
    padding: int

    def shrink(self, side: int) -> int:
        """Side of the map that it makes."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


_HALF_512, _HALF_256 = ExtraLayer(256, 512, 3, 2, 1), ExtraLayer(128, 256, 3, 2, 1)
# Source: SSD, arXiv 1512.02325, fig. 2, and the authors' scripts for 300 and 512 pixels.
EXTRA_LAYERS = {
    "ssd300": (_HALF_512, _HALF_256, ExtraLayer(128, 256, 3, 1, 0), ExtraLayer(128, 256, 3, 1, 0)),
    "ssd512": (_HALF_512, _HALF_256, _HALF_256, _HALF_256, ExtraLayer(128, 256, 4, 1, 1)),
}
BASE_LEVELS = 2  # conv4_3 and fc7


def extra_layers(spec: ModelSpec) -> tuple[ExtraLayer, ...]:
    """As many of the recipe's extra layers as its anchors have levels for."""
    return EXTRA_LAYERS[spec.extra_layers][: len(spec.anchors.per_level) - BASE_LEVELS]


def map_shapes(spec: ModelSpec, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """Height and width of each level's map, finest first, for an input of this size in pixels.

    Raises:
        ValueError: the input is too small for the layers.
    """
    rows, columns = _sides(spec, height), _sides(spec, width)
    if min(*rows, *columns) < 1:
        raise ValueError(
            f"an input of {height}x{width} pixels is too small for {len(rows)} levels of {spec.extra_layers}: "
            "take a larger input, or fewer levels of anchors"
        )
    return tuple(zip(rows, columns, strict=True))


def _sides(spec: ModelSpec, side: int) -> list[int]:
    if spec.neck == "fpn":
        return [-(-side // stride) for stride in STRIDES]  # padded 3x3 convolutions of stride 2 round up
    fine = -(-(side // 2 // 2) // 2)  # three poolings, of which the third rounds up
    sides = [fine, fine // 2]
    for layer in extra_layers(spec):
        sides.append(layer.shrink(sides[-1]))
    return sides

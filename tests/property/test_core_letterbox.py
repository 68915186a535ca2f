"""The letterbox against exact fractions, and its round trip."""

from fractions import Fraction
from math import floor

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from calibox_core.letterbox import Letterbox, letterbox_into

sides = st.integers(1, 5000)
inputs = st.integers(32, 1400)


@given(width=sides, height=sides, input_width=inputs, input_height=inputs)
@example(width=192, height=57, input_width=416, input_height=416)  # 123.5 exactly, 123.49999999999999 in floats
@example(width=1, height=1, input_width=640, input_height=640)
@example(width=5000, height=1, input_width=32, input_height=32)
@example(width=1, height=5000, input_width=1400, input_height=32)
def test_sizes_are_rounded_half_up_and_centred(width: int, height: int, input_width: int, input_height: int) -> None:
    placed = Letterbox.fit(width=width, height=height, input_width=input_width, input_height=input_height)
    scale = min(Fraction(input_width, width), Fraction(input_height, height))
    assert placed.scaled_width == max(1, floor(width * scale + Fraction(1, 2)))
    assert placed.scaled_height == max(1, floor(height * scale + Fraction(1, 2)))
    # One side fills the input, and the margins differ by a pixel at most.
    assert placed.scaled_width == input_width or placed.scaled_height == input_height
    assert input_width - placed.scaled_width - 2 * placed.left in (0, 1)
    assert input_height - placed.scaled_height - 2 * placed.top in (0, 1)


@given(st.data())
def test_boxes_come_back_from_the_input(data: st.DataObject) -> None:
    width, height = data.draw(sides), data.draw(sides)
    placed = Letterbox.fit(width=width, height=height, input_width=data.draw(inputs), input_height=data.draw(inputs))
    x = sorted(data.draw(st.lists(st.floats(0, width, width=32), min_size=2, max_size=2)))
    y = sorted(data.draw(st.lists(st.floats(0, height, width=32), min_size=2, max_size=2)))
    box = np.array([[x[0], y[0], x[1], y[1]]])
    inside = placed.to_input(box)
    assert (inside >= 0).all()
    assert (inside[:, [0, 2]] <= placed.left + placed.scaled_width + 1e-9).all()
    assert (inside[:, [1, 3]] <= placed.top + placed.scaled_height + 1e-9).all()
    # float64 keeps 15 digits; the margin is subtracted again, which costs a few of them.
    assert np.allclose(placed.to_image(inside), box, rtol=0, atol=1e-8)
    # float32 holds 7 digits of a coordinate of up to 1400 + margins, times the image's share of the input.
    stretch = max(width / placed.scaled_width, height / placed.scaled_height)
    assert np.allclose(placed.to_image(placed.to_input(box.astype(np.float32))), box, rtol=0, atol=1e-3 * (1 + stretch))


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    input_width=st.integers(32, 70),
    input_height=st.integers(32, 70),
    pad_value=st.integers(0, 255),
)
def test_pixels_lie_where_the_geometry_says(
    width: int, height: int, input_width: int, input_height: int, pad_value: int
) -> None:
    colour = (pad_value + 128) % 256
    slot = np.random.default_rng(0).integers(0, 256, (input_height, input_width, 3), dtype=np.uint8)  # as after use
    placed = letterbox_into(slot, np.full((height, width, 3), colour, np.uint8), pad_value=pad_value)
    assert placed == Letterbox.fit(width=width, height=height, input_width=input_width, input_height=input_height)
    expected = np.full_like(slot, pad_value)
    bottom, right = placed.top + placed.scaled_height, placed.left + placed.scaled_width
    expected[placed.top : bottom, placed.left : right] = colour
    assert np.array_equal(slot, expected)

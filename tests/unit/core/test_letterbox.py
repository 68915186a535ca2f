"""The letterbox on cases worked out by hand."""

import numpy as np
import pytest

from calibox_core.errors import InvalidParameterError
from calibox_core.letterbox import PAD_VALUE, Letterbox, letterbox_into


def fit(width: int, height: int, input_width: int, input_height: int) -> Letterbox:
    return Letterbox.fit(width=width, height=height, input_width=input_width, input_height=input_height)


@pytest.mark.parametrize(
    ("image", "box", "scaled", "margin"),
    [
        ((640, 480), (320, 320), (320, 240), (0, 40)),
        ((480, 640), (320, 320), (240, 320), (40, 0)),
        ((320, 320), (320, 320), (320, 320), (0, 0)),
        ((10, 10), (40, 60), (40, 40), (0, 10)),  # small images grow
        ((192, 57), (416, 416), (416, 124), (0, 146)),  # 123.5 is rounded up
        ((64, 3), (32, 32), (32, 2), (0, 15)),  # 1.5 is rounded up
        ((100, 3), (50, 50), (50, 2), (0, 24)),
        ((6, 5), (4, 4), (4, 3), (0, 0)),  # 3.33 is rounded down; the odd row of margin lies below
        ((1, 1), (32, 64), (32, 32), (0, 16)),
        ((10_000, 1), (640, 640), (640, 1), (0, 319)),  # 0.064 rows would be none
        ((1, 10_000), (640, 640), (1, 640), (319, 0)),
    ],
)
def test_placement(
    image: tuple[int, int], box: tuple[int, int], scaled: tuple[int, int], margin: tuple[int, int]
) -> None:
    placed = fit(*image, *box)
    assert (placed.scaled_width, placed.scaled_height) == scaled
    assert (placed.left, placed.top) == margin


@pytest.mark.parametrize("sides", [(0, 1, 32, 32), (1, 0, 32, 32), (1, 1, 0, 32), (1, 1, 32, -1)])
def test_sides_must_be_positive(sides: tuple[int, int, int, int]) -> None:
    with pytest.raises(InvalidParameterError, match="at least 1 pixel"):
        fit(*sides)


def test_boxes_map_both_ways() -> None:
    placed = fit(640, 480, 320, 320)
    box = np.array([[100.0, 60.0, 200.0, 480.0]], np.float32)
    inside = placed.to_input(box)
    assert inside.dtype == np.float32
    assert inside.tolist() == [[50.0, 70.0, 100.0, 280.0]]
    assert placed.to_image(inside).tolist() == box.tolist()


def test_sides_that_were_rounded_scale_on_their_own() -> None:
    """100 x 3 becomes 50 x 2: half in x, two thirds in y, so that the image's corner stays its corner."""
    placed = fit(100, 3, 50, 50)
    assert placed.to_input(np.array([0.0, 0.0, 100.0, 3.0])).tolist() == [0.0, 24.0, 50.0, 26.0]


def test_boxes_outside_the_image_are_clipped_to_it() -> None:
    placed = fit(640, 480, 320, 320)
    outside = np.array([[-10.0, 0.0, 400.0, 320.0], [310.0, 10.0, 330.0, 30.0]])
    assert placed.to_image(outside).tolist() == [[0.0, 0.0, 640.0, 480.0], [620.0, 0.0, 640.0, 0.0]]


def test_no_boxes_map_to_no_boxes() -> None:
    assert fit(640, 480, 320, 320).to_image(np.empty((0, 4), np.float32)).shape == (0, 4)


def test_an_image_of_the_inputs_size_is_copied_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    slot = np.zeros_like(image)
    letterbox_into(slot, image)
    assert np.array_equal(slot, image)


def test_an_image_that_only_needs_margins_is_copied_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    slot = np.zeros((64, 48, 3), np.uint8)
    letterbox_into(slot, image)
    assert np.array_equal(slot[16:48], image)
    assert (slot[:16] == PAD_VALUE).all()
    assert (slot[48:] == PAD_VALUE).all()


def test_a_slot_of_a_batch_is_filled_alone() -> None:
    batch = np.zeros((3, 32, 32, 3), np.uint8)
    letterbox_into(batch[1], np.full((10, 20, 3), 200, np.uint8))
    assert not batch[[0, 2]].any()
    assert (batch[1, 8:24] == 200).all()
    assert (batch[1, :8] == PAD_VALUE).all()


def test_a_resized_square_lies_where_its_box_maps_to() -> None:
    """Pixels and box arithmetic agree: a bright square is found at the mapped box, to half a pixel of blur."""
    image = np.zeros((300, 500, 3), np.uint8)
    image[90:210, 100:300] = 255
    slot = np.zeros((128, 160, 3), np.uint8)
    placed = letterbox_into(slot, image, pad_value=0)
    rows, columns = np.nonzero(slot[..., 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    expected = placed.to_input(np.array([100.0, 90.0, 300.0, 210.0]))
    assert np.abs(np.array(found) - expected).max() <= 0.5

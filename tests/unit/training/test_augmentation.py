"""Every augmentation keeps boxes on their objects; what a recipe may not say is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from calibox_core.letterbox import PAD_VALUE, Letterbox
from calibox_core.manifest import InputSpec
from calibox_training.data.coco import ImageRecord, Sample
from calibox_training.data.transforms import TrainTransform
from calibox_training.training_spec import Augmentation

SIZE = InputSpec(height=128, width=192)
SSD = {"photometric": 1.0, "zoom_out": 0.5, "zoom_out_max": 4.0, "crop": 1.0, "crop_min_scale": 0.3}
PARTS: dict[str, dict[str, Any]] = {
    "nothing": {"flip_horizontal": 0.0},
    "flips": {"flip_horizontal": 1.0, "flip_vertical": 1.0},
    "photometric": {"photometric": 1.0, "flip_horizontal": 0.0},
    "expand": {"zoom_out": 1.0, "zoom_out_max": 3.0},
    "crop": {"crop": 1.0, "crop_overlaps": [0.5, 1.0]},
    "ssd": SSD,
}


def _picture() -> tuple[NDArray[np.uint8], ImageRecord]:
    """Two white objects on black: the distortion leaves the one above and the other below the grey of the padding."""
    pixels = np.zeros((240, 320, 3), np.uint8)
    boxes = np.array([[40, 40, 136, 136], [200, 80, 296, 208]], np.float32)
    for x1, y1, x2, y2 in boxes.astype(int):
        pixels[y1:y2, x1:x2] = 255
    record = ImageRecord(1, "picture.png", 320, 240, boxes, np.array([0, 1]), np.array([False, False]))
    return pixels, record


def _draw(values: dict[str, Any], seed: int) -> Sample:
    pixels, record = _picture()
    torch.manual_seed(seed)
    return TrainTransform(Augmentation.model_validate(values), SIZE)(pixels, record)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("part", list(PARTS))
def test_boxes_stay_on_their_objects(part: str, seed: int) -> None:
    sample = _draw(PARTS[part], seed)
    assert sample.image.shape == (SIZE.height, SIZE.width, 3)
    assert len(sample.boxes) == len(sample.labels) == len(sample.crowd)
    bright = sample.image.float().amax(dim=2)
    grey = PAD_VALUE + 10.0
    covered = torch.zeros(SIZE.height, SIZE.width, dtype=torch.bool)
    for x1, y1, x2, y2 in sample.boxes.round().int().tolist():
        inside = bright[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2]  # resizing blurs a pixel or two at the edge
        assert inside.numel() == 0 or inside.min() > grey
        covered[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
    if "crop" not in PARTS[part]:  # a crop drops an object whose centre it leaves outside
        assert len(sample.boxes) == 2
        assert bright[~covered].max() < grey


def test_the_distortion_changes_colours_and_nothing_else() -> None:
    plain = _draw({"flip_horizontal": 0.0}, 0)
    drawn = [_draw({"flip_horizontal": 0.0, "photometric": 1.0}, seed) for seed in range(10)]
    assert any(not torch.equal(sample.image, plain.image) for sample in drawn)
    assert all(torch.equal(sample.boxes, plain.boxes) for sample in drawn)
    never = [_draw({"flip_horizontal": 0.0, "photometric": 0.0}, seed) for seed in range(5)]
    assert all(torch.equal(sample.image, plain.image) for sample in never)


def test_without_changes_a_box_lies_where_the_letterbox_puts_it() -> None:
    _, record = _picture()
    placed = Letterbox.fit(width=320, height=240, input_width=SIZE.width, input_height=SIZE.height)
    np.testing.assert_allclose(_draw(PARTS["nothing"], 0).boxes.numpy(), placed.to_input(record.boxes), atol=1e-4)


def test_a_picture_without_objects_is_augmented_too() -> None:
    pixels, _ = _picture()
    empty = ImageRecord(
        2, "empty.png", 320, 240, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_)
    )
    for seed in range(5):
        torch.manual_seed(seed)
        sample = TrainTransform(Augmentation.model_validate(SSD), SIZE)(pixels, empty)
        assert sample.boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"crop_overlaps": [0.3, 0.5]}, "crop_overlaps needs a 1"),
        ({"sizes": [[16, 64]]}, "sizes"),
        ({"zoom_out_max": 0.5}, "zoom_out_max"),
        ({"photometric": 1.5}, "photometric"),
    ],
)
def test_values_that_cannot_work_are_refused(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        Augmentation.model_validate(values)

"""Training boxes of IoU-Net's predictor: their IoU is uniform, and they lie where objects lie."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibox_core.boxes import pairwise_iou
from calibox_training.iou_net.jitter import JitteredBoxes, jittered_boxes
from calibox_training.iou_net.spec import JitterSpec
from calibox_training.objects import Objects

HEIGHT, WIDTH = 96, 128


def objects_of(*images: list[tuple[list[float], int]], crowd: bool = False) -> Objects:
    """Padded objects of images given as boxes with labels."""
    most = max(1, *(len(image) for image in images))
    boxes, labels = torch.zeros(len(images), most, 4), torch.full((len(images), most), -1)
    for row, image in enumerate(images):
        for column, (box, label) in enumerate(image):
            boxes[row, column], labels[row, column] = torch.tensor(box), label
    return Objects(boxes, labels, torch.full_like(labels, crowd, dtype=torch.bool))


def draw(objects: Objects, *, seed: int = 0, per_image: int = 512, least: float = 0.5) -> JitteredBoxes:
    generator = torch.Generator().manual_seed(seed)
    spec = JitterSpec(per_image=per_image, least_iou=least)
    return jittered_boxes(objects, spec, height=HEIGHT, width=WIDTH, generator=generator)


INNER = ([40.0, 30, 80, 60], 1)
CORNER = ([0.0, 0, 30, 40], 0)
WHOLE = ([0.0, 0, WIDTH, HEIGHT], 2)


def plain_iou(one: Tensor, other: list[float]) -> float:
    """IoU of two boxes as scalars."""
    x1, y1, x2, y2 = one.tolist()
    common = max(0.0, min(x2, other[2]) - max(x1, other[0])) * max(0.0, min(y2, other[3]) - max(y1, other[1]))
    union = (x2 - x1) * (y2 - y1) + (other[2] - other[0]) * (other[3] - other[1]) - common
    return common / union


@pytest.mark.parametrize("source", [INNER, CORNER, WHOLE], ids=["inner", "corner", "whole"])
def test_every_step_of_iou_has_one_box(source: tuple[list[float], int]) -> None:
    """512 boxes, 512 steps of 1/1024 from 0.5 to 1: the sorted IoUs lie in one step each."""
    found = draw(objects_of([source]))
    iou = np.sort([plain_iou(box, source[0]) for box in found.boxes_R4])
    steps = 0.5 + np.arange(513) / 1024
    assert len(iou) == 512
    # The bisection leaves float32's rounding of coordinates of about 100 pixels: 1e-5 of a side of 30.
    assert (iou >= steps[:-1] - 2e-6).all()
    assert (iou <= steps[1:] + 1e-5).all()


def test_labels_and_ious_are_those_of_the_source() -> None:
    found = draw(objects_of([INNER, CORNER], [WHOLE]), per_image=60)
    boxes = {1: INNER[0], 0: CORNER[0], 2: WHOLE[0]}
    for box, label, iou in zip(found.boxes_R4, found.label_R.tolist(), found.iou_R.tolist(), strict=True):
        assert math.isclose(iou, plain_iou(box, boxes[label]), abs_tol=1e-5)
    assert found.image_R.tolist() == [0] * 60 + [1] * 60
    # Objects of an image take turns.
    assert [int((found.label_R == label).sum()) for label in (0, 1, 2)] == [30, 30, 60]


def test_directions_are_not_one_sided() -> None:
    """Of the boxes around an object in the middle about as many are larger as are smaller on each side."""
    moved = draw(objects_of([INNER])).boxes_R4 - torch.tensor(INNER[0])
    outward = torch.stack([moved[:, 0] < 0, moved[:, 1] < 0, moved[:, 2] > 0, moved[:, 3] > 0]).double().mean(dim=1)
    # Five standard deviations of the mean of 512 coin tosses: 5 * 0.5 / sqrt(512) = 0.11.
    assert ((outward - 0.5).abs() < 0.11).all()


def test_no_object_no_box() -> None:
    empty, crowd = objects_of([]), objects_of([INNER], crowd=True)
    outside = objects_of([([200.0, 10, 250, 40], 1)])
    for objects in (empty, crowd, outside, Objects(*(value[:0] for value in empty))):
        found = draw(objects)
        assert found.boxes_R4.shape == (0, 4)
        assert len(found.image_R) == len(found.label_R) == len(found.iou_R) == 0


def test_images_without_objects_stand_between_others() -> None:
    found = draw(objects_of([INNER], [], [CORNER]), per_image=7)
    assert found.image_R.tolist() == [0] * 7 + [2] * 7


def test_a_seed_gives_the_same_boxes_whatever_the_neighbours_hold() -> None:
    one, other = draw(objects_of([INNER], [CORNER])), draw(objects_of([INNER], []))
    torch.testing.assert_close(one.boxes_R4[:512], other.boxes_R4, rtol=0, atol=0)
    assert not torch.equal(one.boxes_R4, draw(objects_of([INNER], [CORNER]), seed=1).boxes_R4)


side = st.floats(0.25, 90, width=32)


@given(
    x=st.floats(-20, 120, width=32),
    y=st.floats(-20, 90, width=32),
    w=side,
    h=side,
    least=st.sampled_from((0.3, 0.5, 0.9)),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=60)
def test_boxes_lie_inside_and_overlap_enough(x: float, y: float, w: float, h: float, least: float, seed: int) -> None:
    found = draw(objects_of([([x, y, x + w, y + h], 0)]), seed=seed, per_image=40, least=least)
    inside = np.clip(np.array([[x, y, x + w, y + h]]), 0, [WIDTH, HEIGHT, WIDTH, HEIGHT])
    if (inside[0, 2:] <= inside[0, :2]).any():
        assert len(found.boxes_R4) == 0
        return
    boxes = found.boxes_R4.double().numpy()
    assert len(boxes) == 40
    assert (found.iou_R >= least).all()
    assert (boxes >= 0).all()
    assert (boxes <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    # Float32 rounds coordinates of 100 pixels by 4e-6, which sides of less than a pixel feel.
    shortest = (inside[0, 2:] - inside[0, :2]).min()
    assert (pairwise_iou(boxes, inside) >= least - 1e-4 / min(1, shortest)).all()

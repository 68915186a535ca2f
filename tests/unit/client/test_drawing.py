"""Drawn pictures: pixels change where boxes are, nowhere else but under labels, and labels stay inside."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from calibox_client import Detection, Detections
from calibox_client.drawing import (
    PALETTE,
    box_pixels,
    colour_of,
    draw_detections,
    label_texts,
    place_labels,
    style_for,
)

GREY = (128, 128, 128)


def found(box: tuple[float, float, float, float], label: str = "WBC", label_id: int = 2) -> Detection:
    return Detection(box, label, label_id, 0.9149, 0.9749, 0.8649)


def picture(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def changed(drawn: Image.Image) -> np.ndarray:
    return (np.asarray(drawn) != GREY).any(axis=2)


def test_the_outline_lies_on_the_box_and_its_inside_stays() -> None:
    drawn = np.asarray(draw_detections(picture(640, 480), [found((200, 150, 500, 400))]))
    outline = np.zeros((480, 640), bool)
    outline[150:400, 200:500] = True
    width = style_for((640, 480)).line_width
    outline[150 + width : 400 - width, 200 + width : 500 - width] = False
    assert (drawn[outline] == colour_of(2)).all()
    assert (drawn[150 + width : 400 - width, 200 + width : 500 - width] == GREY).all()
    assert (drawn[402:] == GREY).all()
    assert (drawn[:, :198] == GREY).all()


def test_the_label_is_written_above_the_box() -> None:
    above = np.asarray(draw_detections(picture(640, 480), [found((200, 150, 500, 400))]))[100:150, 200:500]
    assert (above == colour_of(2)).all(axis=2).any()
    assert (above == (255, 255, 255)).all(axis=2).any()


def test_the_source_is_not_drawn_on() -> None:
    source = picture(64, 48)
    draw_detections(source, [found((5, 5, 40, 40))])
    assert not changed(source).any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 40), (16, 16)])
def test_tiny_pictures_get_their_box_without_text(size: tuple[int, int]) -> None:
    drawn = draw_detections(picture(*size), [found((0, 0, *size))])
    assert drawn.size == size
    assert changed(drawn)[0].all()
    assert changed(drawn)[:, 0].all()


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 320.0, 240.0),
        (300.0, 220.0, 320.0, 240.0),
        (0.0, 0.0, 4.0, 4.0),
        (316.0, 0.0, 320.0, 3.0),
        (-50.0, -20.0, 400.0, 300.0),
        (319.9, 239.9, 320.0, 240.0),
        (100.0, 100.0, 100.0, 100.0),
        (120.0, 120.0, 110.0, 110.0),
    ],
)
def test_boxes_at_and_beyond_the_borders_are_drawn(box: tuple[float, float, float, float]) -> None:
    left, top, right, bottom = box_pixels(found(box), (320, 240))
    assert 0 <= left <= right < 320
    assert 0 <= top <= bottom < 240
    mask = changed(draw_detections(picture(320, 240), [found(box)]))
    assert mask[top, left : right + 1].all()
    assert mask[bottom, left : right + 1].all()
    assert mask[top : bottom + 1, left].all()
    assert mask[top : bottom + 1, right].all()


coordinates = st.floats(-50, 500, allow_nan=False)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)


@given(many=st.lists(boxes, max_size=12), width=st.integers(1, 400), height=st.integers(1, 300))
def test_labels_stay_inside_and_only_crowded_ones_overlap(
    many: list[tuple[float, float, float, float]], width: int, height: int
) -> None:
    detections = [found(box, label="Platelets" if i % 2 else "RBC") for i, box in enumerate(many)]
    image = picture(width, height)
    labels = place_labels(ImageDraw.Draw(image), detections, style_for(image.size), image.size)
    for label in labels:
        assert 0 <= label.place.left < label.place.right <= width
        assert 0 <= label.place.top < label.place.bottom <= height
    calm = [label for label in labels if not label.crowded]
    assert not any(a.place.overlaps(b.place) for a, b in itertools.combinations(calm, 2))
    assert draw_detections(image, detections).size == (width, height)


def test_texts_say_three_scores_and_grow_shorter() -> None:
    assert label_texts(found((0, 0, 9, 9))) == (
        "WBC 0.91 · cls 0.97 · loc 0.86",
        "WBC 0.91\ncls 0.97\nloc 0.86",
        "WBC 0.91",
    )


def test_a_class_name_cannot_break_the_label() -> None:
    line, stacked, brief = label_texts(found((0, 0, 9, 9), label="a\nb\t c"))
    assert line.startswith("a b c 0.91")
    assert (stacked.count("\n"), brief.count("\n")) == (2, 0)


@pytest.mark.parametrize(("side", "lines"), [(400, 0), (90, 2), (30, 2)])
def test_labels_hold_three_scores_in_one_line_where_the_box_is_wide_else_stacked(side: int, lines: int) -> None:
    image = picture(640, 480)
    box = (60.0, 60.0, 60.0 + side, 60.0 + side)
    (label,) = place_labels(ImageDraw.Draw(image), [found(box)], style_for(image.size), image.size)
    assert label.text.count("\n") == lines
    assert "cls 0.97" in label.text
    assert "loc 0.86" in label.text


def test_sizes_grow_with_the_picture() -> None:
    small, large = style_for((320, 240)), style_for((4000, 3000))
    assert small.line_width == 1
    assert large.line_width > 8
    assert large.font.size > 4 * small.font.size  # type: ignore[union-attr]


def test_classes_have_their_own_colours() -> None:
    assert len({colour_of(label_id) for label_id in range(1, len(PALETTE) + 1)}) == len(PALETTE)
    drawn = np.asarray(
        draw_detections(picture(640, 480), [found((10, 300, 200, 470), label_id=1), found((300, 300, 600, 470))])
    )
    assert tuple(drawn[400, 10]) == colour_of(1)
    assert tuple(drawn[400, 300]) == colour_of(2)


def test_the_better_box_lies_on_top() -> None:
    best, other = found((10, 10, 100, 100), label_id=1), found((10, 10, 100, 60), label_id=2)
    drawn = np.asarray(draw_detections(picture(640, 480), [best, other]))
    assert tuple(drawn[58, 10]) == colour_of(1)  # below the labels, where both outlines run


def test_draw_takes_what_detect_takes_and_turns_it_upright() -> None:
    detections = Detections((found((2, 2, 30, 40)),), width=48, height=64, model="m", version="1")
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = picture(64, 48)
    lying.info["exif"] = exif.tobytes()
    assert detections.draw(lying).size == (48, 64)
    assert detections.draw(np.full((64, 48, 3), 128, np.uint8)).size == (48, 64)

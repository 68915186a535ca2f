"""Boxes, classes and the three scores drawn on a picture."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from calibox_client.results import Detection

Colour = tuple[int, int, int]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Distinct on blood cells, circuit boards and street scenes alike; a class takes the one at its id modulo 12.
PALETTE: tuple[Colour, ...] = (
    (230, 57, 70),
    (17, 119, 187),
    (42, 157, 100),
    (244, 140, 6),
    (131, 56, 190),
    (0, 160, 176),
    (214, 51, 132),
    (140, 120, 20),
    (88, 101, 242),
    (156, 78, 30),
    (70, 140, 40),
    (90, 98, 112),
)
_DARK, _LIGHT = (20, 20, 20), (255, 255, 255)


class Rect(NamedTuple):
    """A rectangle of pixels, right and bottom excluded."""

    left: int
    top: int
    right: int
    bottom: int

    def overlaps(self, other: "Rect") -> bool:
        """Whether the two share a pixel."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )


class Label(NamedTuple):
    """A text and where it is written."""

    text: str
    place: Rect
    colour: Colour
    crowded: bool  # no place was free, so it covers another label


class Style(NamedTuple):
    """Sizes in pixels that suit one picture."""

    line_width: int
    font: Font
    padding: int


def draw_detections(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """A copy of an RGB picture with boxes, and above them class and scores; the best detection lies on top.

    A label moves where it neither leaves the picture nor covers another one: all three scores where there is room, else
    class and score; on a picture that is too small for text it is left out.
    """
    picture = image.copy()
    canvas, style = ImageDraw.Draw(picture), style_for(picture.size)
    for found in reversed(detections):
        canvas.rectangle(box_pixels(found, picture.size), outline=colour_of(found.label_id), width=style.line_width)
    for label in place_labels(canvas, detections, style, picture.size):
        _write(canvas, label, style)
    return picture


def style_for(size: tuple[int, int]) -> Style:
    """Line and letters grow with the picture, from 1 and 11 pixels."""
    side = min(size)
    font_size = max(11, round(side / 40))  # 12 px letters on a picture of 640 x 480
    return Style(max(1, round(side / 240)), ImageFont.load_default(font_size), max(2, font_size // 5))


def colour_of(label_id: int) -> Colour:
    """The colour of a class, the same on every picture."""
    return PALETTE[label_id % len(PALETTE)]


def box_pixels(found: Detection, size: tuple[int, int]) -> Rect:
    """First and last pixel (included) of a box's outline, inside the picture even where the box is not."""
    x1, y1, x2, y2 = (round(value) for value in found.box)
    left, top = _clamp(x1, 0, size[0] - 1), _clamp(y1, 0, size[1] - 1)
    return Rect(left, top, _clamp(x2 - 1, left, size[0] - 1), _clamp(y2 - 1, top, size[1] - 1))


def label_texts(found: Detection) -> tuple[str, str, str]:
    """What a label may say, from the longest: one line with three scores, the same stacked, class and score."""
    name = " ".join(found.label.split())
    brief = f"{name} {found.score:.2f}"
    parts = f"cls {found.classification_score:.2f}", f"loc {found.localization_score:.2f}"
    return " · ".join((brief, *parts)), "\n".join((brief, *parts)), brief


def place_labels(
    canvas: ImageDraw.ImageDraw, detections: Sequence[Detection], style: Style, size: tuple[int, int]
) -> list[Label]:
    """Labels in the order of detections, so that the best choose first; those that fit nowhere are left out."""
    labels: list[Label] = []
    for found in detections:
        label = _place_label(canvas, found, style, size, [other.place for other in labels])
        if label is not None:
            labels.append(label)
    return labels


def _place_label(
    canvas: ImageDraw.ImageDraw, found: Detection, style: Style, size: tuple[int, int], taken: Sequence[Rect]
) -> Label | None:
    """The longest text that has a free place, else the shortest on top of another label."""
    box, colour = box_pixels(found, size), colour_of(found.label_id)
    for text in _texts_that_suit(canvas, found, box, style):
        for place in _places(box, *_text_size(canvas, text, style), size):
            if not any(map(place.overlaps, taken)):
                return Label(text, place, colour, crowded=False)
    text = label_texts(found)[-1]
    anywhere = next(_places(box, *_text_size(canvas, text, style), size), None)
    return Label(text, anywhere, colour, crowded=True) if anywhere else None


def _texts_that_suit(canvas: ImageDraw.ImageDraw, found: Detection, box: Rect, style: Style) -> Iterator[str]:
    """One line where it is no wider than the box, else the same stacked, else class and score."""
    line, stacked, brief = label_texts(found)
    if _text_size(canvas, line, style)[0] <= box.right - box.left + 1:
        yield line
    yield stacked
    yield brief


def _places(box: Rect, width: int, height: int, size: tuple[int, int]) -> Iterator[Rect]:
    """Where a label of this size may lie inside the picture: above the box, below it, inside at its top or bottom."""
    if width > size[0] or height > size[1]:
        return
    left = _clamp(box.left, 0, size[0] - width)
    for top in (box.top - height, box.bottom + 1, box.top, box.bottom + 1 - height):
        if 0 <= top <= size[1] - height:
            yield Rect(left, top, left + width, top + height)


def _text_size(canvas: ImageDraw.ImageDraw, text: str, style: Style) -> tuple[int, int]:
    left, top, right, bottom = canvas.multiline_textbbox((0, 0), text, font=style.font, spacing=2)
    return int(right - left) + 2 * style.padding + 1, int(bottom - top) + 2 * style.padding


def _write(canvas: ImageDraw.ImageDraw, label: Label, style: Style) -> None:
    place = label.place
    left, top, _, _ = canvas.multiline_textbbox((0, 0), label.text, font=style.font, spacing=2)
    canvas.rectangle((place.left, place.top, place.right - 1, place.bottom - 1), fill=label.colour)
    corner = (place.left + style.padding - left, place.top + style.padding - top)
    canvas.multiline_text(corner, label.text, fill=_ink_on(label.colour), font=style.font, spacing=2)


def _ink_on(colour: Colour) -> Colour:
    """Dark or light letters, whichever stand out: luma of Rec. 601 against its middle."""
    red, green, blue = colour
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else _LIGHT


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))

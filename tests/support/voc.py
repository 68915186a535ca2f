"""A small PASCAL VOC data set in the official layout: coloured rectangles as cars and persons, some difficult."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

# name, 1-based inclusive xmin, ymin, xmax, ymax, difficult
VocBox = tuple[str, int, int, int, int, int]

SIZE = (96, 128)  # height, width
COLOURS = {"car": (200, 40, 40), "person": (40, 60, 200)}


def make_voc(root: Path, *, train: int = 6, val: int = 3, seed: int = 0) -> Path:
    """Writes VOCdevkit with VOC2007 trainval and test and VOC2012 trainval, and returns its folder."""
    devkit = root / "VOCdevkit"
    rng = np.random.default_rng(seed)
    lists = {(2007, "trainval"): train // 2, (2012, "trainval"): train - train // 2, (2007, "test"): val}
    for (year, split), count in lists.items():
        names = [f"{year}_{split}_{n:06d}" for n in range(count)]
        for n, name in enumerate(names):
            write_voc_image(devkit / f"VOC{year}", name, _draw(rng, difficult_too=n % 2 == 0))
        write_voc_list(devkit / f"VOC{year}", split, names)
    return devkit


def write_voc_list(year: Path, split: str, names: list[str]) -> Path:
    """ImageSets/Main/<split>.txt."""
    path = year / "ImageSets" / "Main" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def write_voc_image(year: Path, name: str, boxes: list[VocBox]) -> Path:
    """JPEGImages/<name>.jpg and Annotations/<name>.xml; returns the latter."""
    pixels = np.full((*SIZE, 3), 128, np.uint8)
    for kind, xmin, ymin, xmax, ymax, _ in boxes:
        pixels[ymin - 1 : ymax, xmin - 1 : xmax] = COLOURS.get(kind, (0, 0, 0))
    for folder in ("JPEGImages", "Annotations"):
        (year / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(year / "JPEGImages" / f"{name}.jpg", quality=95)
    path = year / "Annotations" / f"{name}.xml"
    path.write_bytes(ElementTree.tostring(_document(name, boxes)))
    return path


def _document(name: str, boxes: list[VocBox]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = f"{name}.jpg"
    size = ElementTree.SubElement(root, "size")
    for key, value in (("width", SIZE[1]), ("height", SIZE[0]), ("depth", 3)):
        ElementTree.SubElement(size, key).text = str(value)
    for kind, *corners, difficult in boxes:
        found = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(found, "name").text = kind
        ElementTree.SubElement(found, "truncated").text = "0"
        ElementTree.SubElement(found, "difficult").text = str(difficult)
        box = ElementTree.SubElement(found, "bndbox")
        for key, corner in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(box, key).text = str(corner)
    return root


def _draw(rng: np.random.Generator, *, difficult_too: bool) -> list[VocBox]:
    """A car on the left, a person on the right; the latter difficult now and then."""
    w, h = (int(v) for v in rng.integers(24, 56, 2))
    x, y = int(rng.integers(1, 64 - w + 1)), int(rng.integers(1, SIZE[0] - h + 1))
    return [
        ("car", x, y, x + w - 1, y + h - 1, 0),
        ("person", x + 64, y, x + 64 + w - 1, y + h - 1, int(difficult_too)),
    ]

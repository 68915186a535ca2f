"""A small KITTI object data set in the official layout: red cars, a blue van and a DontCare region."""

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (96, 256)  # height, width
COLOURS = {"Car": (200, 40, 40), "Van": (40, 60, 200), "Pedestrian": (40, 200, 60)}


def label_line(kind: str, box: tuple[float, float, float, float], *, truncated: float = 0.0, occluded: int = 0) -> str:
    """A line of a label file; what only 3D needs is as for unknown objects."""
    corners = " ".join(f"{value:.2f}" for value in box)
    if kind == "DontCare":
        truncated, occluded = -1, -1
    return f"{kind} {truncated:.2f} {occluded} -10 {corners} -1 -1 -1 -1000 -1000 -1000 -10"


def make_kitti(root: Path, *, images: int = 8, seed: int = 0) -> Path:
    """Writes training/image_2 and training/label_2 and returns the folder that holds training/."""
    rng = np.random.default_rng(seed)
    for number in range(images):
        w, h = int(rng.integers(45, 70)), int(rng.integers(42, 60))
        x, y = int(rng.integers(0, 76 - w + 1)), int(rng.integers(0, SIZE[0] - h))
        objects = [("Car", (x, y, x + w, y + h)), ("Car", (x + 80, y, x + 80 + w, y + h))]
        objects.append(("Van" if number % 2 else "Pedestrian", (x + 160, y, x + 160 + w, y + h)))
        lines = [label_line(kind, box) for kind, box in objects] + [label_line("DontCare", (240, 0, 256, 20))]
        pixels = np.full((*SIZE, 3), 128, np.uint8)
        for kind, (x1, y1, x2, y2) in objects:
            pixels[y1:y2, x1:x2] = COLOURS[kind]
        write_kitti_image(root, f"{number:06d}", pixels, lines)
    return root


def write_kitti_image(root: Path, name: str, pixels: np.ndarray, lines: list[str]) -> Path:
    """One image and its label file; returns the latter."""
    for folder in ("image_2", "label_2"):
        (root / "training" / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / "training" / "image_2" / f"{name}.png")
    path = root / "training" / "label_2" / f"{name}.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path

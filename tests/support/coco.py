"""A small COCO-format data set drawn on the spot: coloured rectangles on a grey ground, one class per colour."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from calibox_core.dataset import CocoFolder

COLOURS = ((200, 40, 40), (40, 60, 200))
SIZE = (96, 128)  # height, width


def make_coco_folder(root: Path, *, train: int = 8, val: int = 4, seed: int = 0) -> CocoFolder:
    """Writes images/, instances_train.json and instances_val.json; every third image is empty, one box is a crowd."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    first = 1
    for split, count in (("train", train), ("val", val)):
        document = _split(root, rng, range(first, first + count))
        (root / f"instances_{split}.json").write_text(json.dumps(document))
        first += count
    return CocoFolder(root)


def _split(root: Path, rng: np.random.Generator, image_ids: range) -> dict[str, Any]:
    images, annotations = [], []
    for image_id in image_ids:
        pixels = np.full((*SIZE, 3), 128, np.uint8)
        for _ in range(0 if image_id % 3 == 0 else int(rng.integers(1, 4))):
            label = int(rng.integers(len(COLOURS)))
            w, h = (int(v) for v in rng.integers(24, 56, 2))
            x, y = int(rng.integers(0, SIZE[1] - w)), int(rng.integers(0, SIZE[0] - h))
            if (pixels[y : y + h, x : x + w] != 128).any():
                continue  # objects never hide one another
            pixels[y : y + h, x : x + w] = COLOURS[label]
            annotations.append(
                {
                    "id": len(annotations) + 1 + 1000 * image_id,
                    "image_id": image_id,
                    "category_id": label + 5,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(not annotations),
                }
            )
        Image.fromarray(pixels).save(root / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": SIZE[1], "height": SIZE[0]})
    categories = [{"id": 5, "name": "red"}, {"id": 6, "name": "blue"}]
    return {"images": images, "annotations": annotations, "categories": categories}

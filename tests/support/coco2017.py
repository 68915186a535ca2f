"""A small data set in the official form of COCO 2017: its folders, its keys, masks and crowds."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from calibox_core.coco2017 import Coco2017Folder
from calibox_core.dataset import CocoFolder, Split
from tests.support.coco import make_coco_folder

LICENCE = {"url": "http://creativecommons.org/licenses/by/2.0/", "id": 4, "name": "Attribution License"}


def make_coco2017(root: Path, *, train: int = 8, val: int = 4, seed: int = 0) -> Coco2017Folder:
    """Writes annotations/, train2017/ and val2017/; both splits number their files from 1, so only folders tell."""
    (root / "annotations").mkdir(parents=True)
    with TemporaryDirectory() as scratch:
        flat = make_coco_folder(Path(scratch) / "flat", train=train, val=val, seed=seed)
        _write_split(flat, root, "train")
        _write_split(flat, root, "val")
    return Coco2017Folder(root)


def _write_split(flat: CocoFolder, root: Path, split: Split) -> None:
    document = flat.annotations(split)
    pictures = root / f"{split}2017"
    pictures.mkdir()
    images = []
    for number, image in enumerate(document["images"], 1):
        name = f"{number:012d}.jpg"
        Image.open(flat.images / image["file_name"]).save(pictures / name, quality=95)
        images.append({**image, "file_name": name, "license": 4, "coco_url": f"http://images.cocodataset.org/{name}"})
    official = {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017},
        "licenses": [LICENCE],
        "images": images,
        "annotations": [{"segmentation": _mask(row), **row} for row in document["annotations"]],
        "categories": [{"supercategory": "shape", **row} for row in document["categories"]],
    }
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(official))


def _mask(row: dict[str, Any]) -> Any:
    """A polygon, or run lengths for a crowd, as the official files write them."""
    x, y, w, h = row["bbox"]
    if row["iscrowd"]:
        return {"counts": [0, w * h], "size": [h, w]}
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]

"""A foreign detector's boxes on a split: found by running it, or read from a file, and kept as COCO results.

Letters: K rows of the detector, C classes, R (row, class) pairs.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import xyxy_to_xywh
from calibox_core.dataset import DataFolder
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import ClassInfo, InputSpec
from calibox_training.data.coco import ImageRecord, read_image
from calibox_training.reproduce.results import write_text

# Boxes [1, K, 4] and p [1, K, C] of a picture uint8 [1, H, W, 3].
Network = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


def detect_split(
    network: Network,
    folder: DataFolder,
    records: Sequence[ImageRecord],
    classes: Sequence[ClassInfo],
    size: InputSpec,
    *,
    floor: float,
) -> list[dict[str, Any]]:
    """COCO results of every image: pairs of a box and a class with p above ``floor``, in pixels of the image."""
    slot = np.empty((1, size.height, size.width, 3), np.uint8)
    rows: list[dict[str, Any]] = []
    for record in records:
        placed = letterbox_into(slot[0], read_image(folder, record), pad_value=size.pad_value)
        boxes_1K4, p_1KC = network(slot)
        row_R, label_R = np.nonzero(p_1KC[0] > floor)
        boxes_R4 = xyxy_to_xywh(placed.to_image(boxes_1K4[0][row_R]))
        rows += [
            {
                "image_id": record.image_id,
                "category_id": classes[label].category_id,
                "bbox": [float(value) for value in box],
                "score": float(score),
            }
            for box, label, score in zip(boxes_R4, label_R.tolist(), p_1KC[0][row_R, label_R], strict=True)
        ]
    return rows


def write_results(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """One detection a line, whole or not at all."""
    write_text(path, "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]")

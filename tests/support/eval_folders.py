"""A data set on which a random network is neither good nor bad: its own detections, moved a little, are the truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from calibox_core.boxes import xyxy_to_xywh
from calibox_core.dataset import CocoFolder
from calibox_core.letterbox import Letterbox, letterbox_into
from tests.support.pictures import picture

OBJECTS = 8  # of an image


class InProcess:
    """A bundle's graph in this process."""

    def __init__(self, bundle: Path) -> None:
        self.session = onnxruntime.InferenceSession(bundle / "model.onnx")
        self.manifest = json.loads((bundle / "manifest.json").read_text())

    def rows(
        self, pixels: NDArray[np.uint8], fusion: tuple[float, float, float] = (0.5, 0.5, 0), threshold: float = 0.0
    ) -> list[dict[str, Any]]:
        """COCO results of one picture, without its id."""
        size = self.manifest["input"]
        slot = np.empty((1, size["height"], size["width"], 3), np.uint8)
        placed = letterbox_into(slot[0], pixels)
        feeds = {
            "images": slot,
            "fusion": np.array([fusion], np.float32),
            "score_threshold": np.array([threshold], np.float32),
            "iou_threshold": np.array([self.manifest["thresholds"]["iou"]], np.float32),
            "refine_steps": np.zeros(1, np.int32),
        }
        return self._rows(placed, *self.session.run(["num_detections", "boxes", "labels", "scores"], feeds))

    def _rows(self, placed: Letterbox, counts: Any, boxes: Any, labels: Any, scores: Any) -> list[dict[str, Any]]:
        kept = slice(int(counts[0]))
        named = zip(xyxy_to_xywh(placed.to_image(boxes[0][kept])), labels[0][kept], scores[0][kept], strict=True)
        return [
            {
                "category_id": self.manifest["classes"][label]["category_id"],
                "bbox": [float(value) for value in box],
                "score": float(score),
            }
            for box, label, score in named
        ]


def make_eval_folder(root: Path, bundle: Path, *, images: int) -> CocoFolder:
    """Writes pictures of noise and, as their objects, some of what the bundle finds in them, moved by up to a fifth."""
    rng, network = np.random.default_rng(0), InProcess(bundle)
    (root / "images").mkdir(parents=True)
    document: dict[str, Any] = {"images": [], "annotations": []}
    document["categories"] = [{"id": c["category_id"], "name": c["name"]} for c in network.manifest["classes"]]
    for image_id in range(1, images + 1):
        drawn = picture(width=200, height=120 + image_id, seed=image_id)
        name = f"{image_id}.png"
        drawn.save(root / "images" / name)
        document["images"].append({"id": image_id, "file_name": name, "width": drawn.width, "height": drawn.height})
        found = network.rows(np.asarray(drawn.convert("RGB")), (1, 1, 0))
        for row in found[:OBJECTS]:
            x, y, width, height = row["bbox"]
            moved = [x + width * rng.uniform(-0.1, 0.1), y + height * rng.uniform(-0.1, 0.1), width, height]
            number = len(document["annotations"]) + 1
            document["annotations"].append(
                {"id": number, "image_id": image_id, "category_id": row["category_id"], "bbox": moved}
            )
    for split in ("train", "val"):
        (root / f"instances_{split}.json").write_text(json.dumps(document))
    return CocoFolder(root)

"""What an attached IoU-Net says of a foreign detector's boxes: predicted IoU, and where refinement moves them.

Letters: N (box, class) pairs of an image, H x W pixels of the input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibox_core.boxes import xyxy_to_xywh
from calibox_core.dataset import DataFolder
from calibox_core.fusion import Exponents, fuse
from calibox_core.letterbox import Letterbox, letterbox_into
from calibox_core.manifest import ClassInfo
from calibox_training.data.coco import ImageRecord, read_image
from calibox_training.iou_net.attached import AttachedModel
from calibox_training.iou_net.features import box_score
from calibox_training.iou_net.foreign_boxes import ForeignBoxes
from calibox_training.iou_net.predictor import predicted_iou
from calibox_training.iou_net.refinement import refine


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """The detector's boxes in an image, before any suppression of ours; boxes in letterboxed pixels."""

    record: ImageRecord
    letterbox: Letterbox
    boxes_N4: NDArray[np.float32]
    labels_N: NDArray[np.int64]
    p_N: NDArray[np.float32]
    q_N: NDArray[np.float32]  # predicted IoU where the box is
    refined_N4: NDArray[np.float32]
    refined_q_N: NDArray[np.float32]  # predicted IoU where it ends


def score_images(
    model: AttachedModel, folder: DataFolder, records: Sequence[ImageRecord], found: Sequence[ForeignBoxes]
) -> Iterator[ScoredImage]:
    """Every image in the order of ``records``. A box is refined by itself, so it is done before suppression."""
    size, device = model.recipe.input, next(model.predictor.parameters()).device
    slot = np.empty((1, size.height, size.width, 3), np.uint8)
    for record, boxes in zip(records, found, strict=True):
        placed = letterbox_into(slot[0], read_image(folder, record), pad_value=size.pad_value)
        boxes_N4 = torch.from_numpy(placed.to_input(boxes.boxes_N4)).to(device)
        label_N = torch.from_numpy(boxes.labels_N).to(device)
        with torch.no_grad():
            maps = model.features.maps(torch.from_numpy(slot).to(device))
        score = box_score(model.predictor, maps, boxes_N4, torch.zeros_like(label_N), label_N, model.features.levels)
        with torch.no_grad():
            q_N = predicted_iou(score(boxes_N4, torch.arange(len(boxes_N4), device=device)))
        limits = torch.tensor([[size.height, size.width]], device=device).expand(len(boxes_N4), 2)
        moved = refine(score, boxes_N4, limits, model.recipe.refinement)
        yield ScoredImage(
            record,
            placed,
            boxes_N4.cpu().numpy(),
            boxes.labels_N,
            boxes.p_N,
            q_N.cpu().numpy(),
            moved.boxes_R4.cpu().numpy(),
            predicted_iou(moved.output_R).cpu().numpy(),
        )


def rescored(
    images: Sequence[ScoredImage], classes: Sequence[ClassInfo], exponents: Exponents, *, refined: bool
) -> list[dict[str, Any]]:
    """COCO results with the three scores: the detector's boxes, none left out, `score` fused."""
    rows: list[dict[str, Any]] = []
    for image in images:
        boxes = image.letterbox.to_image(image.refined_N4 if refined else image.boxes_N4)
        fused_N = fuse(image.p_N, image.q_N, exponents)
        rows += [
            {
                "image_id": image.record.image_id,
                "category_id": classes[int(label)].category_id,
                "bbox": [float(value) for value in box],
                "score": float(score),
                "classification_score": float(p),
                "localization_score": float(q),
            }
            for box, label, score, p, q in zip(
                xyxy_to_xywh(boxes),
                image.labels_N,
                fused_N,
                image.p_N,
                image.refined_q_N if refined else image.q_N,
                strict=True,
            )
        ]
    return rows

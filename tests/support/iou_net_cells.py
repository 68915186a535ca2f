"""A picture whose candidates and objects are written down, and a detector that says what it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from calibox_core.manifest import ClassInfo, InputSpec
from calibox_training.data.coco import ImageRecord
from calibox_training.iou_net.features import Levels
from calibox_training.iou_net.prroi_pool import flatten_maps
from calibox_training.iou_net.systems import Candidates
from calibox_training.iou_net.windows import Maps
from calibox_training.reproduce_iou_net.nms_methods import Scored, guided_nms, standard_nms
from calibox_training.reproduce_iou_net.raw import Moved, RawImage, letterbox_of

CLASSES = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))
SIDE = 100  # of the picture and of the input: letterboxed pixels are the picture's
RED, BLUE = [10.0, 10, 50, 50], [60.0, 10, 90, 40]  # the objects
LOOSE, TIGHT, ALONE, BELOW = [10.0, 10, 50, 43], [10.0, 10, 50, 50], [60.0, 60, 90, 90], [60.0, 10, 90, 35]
# IoU with the object of the class: LOOSE 33/40 = 0.825, TIGHT 1, ALONE none, BELOW 25/30.
BOXES = [LOOSE, TIGHT, ALONE, BELOW]
LABELS = [0, 0, 0, 1]
P = [0.9, 0.6, 0.3, 0.5]
Q = [0.7, 0.95, 0.99, 0.6]
IOU = [33 / 40, 1.0, 0.0, 25 / 30]


def record(image_id: int = 1) -> ImageRecord:
    """A red and a blue object, and a crowd region."""
    boxes = np.array([RED, BLUE, [0.0, 60, 50, 100]], np.float32)
    return ImageRecord(image_id, f"{image_id}.png", SIDE, SIDE, boxes, np.array([0, 1, -1]), np.array([0, 0, 1], bool))


def annotations(image_ids: Sequence[int] = (1,)) -> dict[str, object]:
    """The COCO document of such pictures."""
    rows = []
    for image_id in image_ids:
        for (x1, y1, x2, y2), category, crowd in ((RED, 5, 0), (BLUE, 6, 0), ([0.0, 60, 50, 100], 5, 1)):
            bbox = [x1, y1, x2 - x1, y2 - y1]
            area = bbox[2] * bbox[3]
            rows.append({"image_id": image_id, "category_id": category, "bbox": bbox, "area": area, "iscrowd": crowd})
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE} for i in image_ids],
        "annotations": [{**row, "id": number} for number, row in enumerate(rows, 1)],
        "categories": [{"id": c.category_id, "name": c.name} for c in CLASSES],
    }


def scored() -> Scored:
    """The candidates."""
    return Scored(np.array(BOXES, np.float32), np.array(LABELS), np.array(P, np.float32), np.array(Q, np.float32))


def raw_image() -> RawImage:
    """The picture as it is stored; one step of refinement puts LOOSE on its object, one of regression takes it away."""
    found = scored()
    standard, guided = standard_nms(found), guided_nms(found)
    start, ours = found.boxes_K4[standard.index_N], found.boxes_K4[guided.index_N]
    refined, regressed = start.copy(), start.copy()
    refined[standard.index_N == 0], regressed[standard.index_N == 0] = TIGHT, [10, 10, 30, 43]
    one = record()
    return RawImage(
        one,
        letterbox_of(one, InputSpec(height=SIDE, width=SIDE)),
        found,
        Moved(standard, np.stack([start, refined], axis=1), np.stack([start, regressed], axis=1)),
        Moved(guided, np.stack([ours, ours], axis=1), ours[:, None]),
    )


@dataclass(frozen=True)
class FlatFeatures:
    """One map of noise, which depends on the picture."""

    levels: Levels = field(default_factory=lambda: Levels(3, 3))
    channels: int = 4

    def maps(self, images: Tensor) -> Maps:
        """Float32, a pixel for eight."""
        generator = torch.Generator().manual_seed(int(images.sum()))
        batch, height, width = images.shape[:3]
        return flatten_maps([torch.randn(batch, self.channels, height // 8, width // 8, generator=generator)])


@dataclass
class ToldSystem:
    """Finds `BOXES` in every picture; a pass of its regressor moves every box by `step` pixels to the right."""

    step: float | None = None
    classes: tuple[ClassInfo, ...] = CLASSES
    input: InputSpec = field(default_factory=lambda: InputSpec(height=SIDE, width=SIDE))
    features: FlatFeatures = field(default_factory=FlatFeatures)

    def candidates(self, images: Tensor) -> Candidates:
        """The same in every picture of the batch."""
        many = len(images)
        return Candidates(
            torch.tensor(BOXES).repeat(many, 1),
            torch.tensor(LABELS).repeat(many),
            torch.tensor(P).repeat(many),
            torch.arange(many).repeat_interleave(len(BOXES)),
        )

    def regress(self, images: Tensor, found: Candidates) -> Candidates | None:
        """None without a step."""
        del images
        return None if self.step is None else found._replace(boxes_R4=found.boxes_R4 + torch.tensor([self.step, 0] * 2))

"""Augmentation by torchvision.transforms.v2, ended by the letterbox that every image gets."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors
from torchvision.transforms import v2

from calibox_core.letterbox import PAD_VALUE
from calibox_core.manifest import InputSpec
from calibox_training.data.coco import ImageRecord, Sample, place
from calibox_training.training_spec import Augmentation

# A box that a crop leaves smaller than this on a side shows nothing to learn from, in pixels of the original.
MIN_BOX_SIDE = 4.0
# Mild, since colour tells classes apart; torchvision's RandomPhotometricDistort would also swap the channels.
COLOUR_JITTER = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.3, "hue": 0.03}


class TrainTransform:
    """SSD's distortion and geometric changes, letterbox, then a mild colour jitter on the smaller image."""

    def __init__(self, augmentation: Augmentation, size: InputSpec) -> None:
        self.size = size
        self.geometric = v2.Compose(_geometric(augmentation))
        self.colour = v2.RandomApply([v2.ColorJitter(**COLOUR_JITTER)], p=augmentation.colour)

    def __call__(self, pixels: NDArray[np.uint8], record: ImageRecord) -> Sample:
        """A training sample from an image and its annotation."""
        return self.sample(self.changed(pixels, record))

    def changed(self, pixels: NDArray[np.uint8], record: ImageRecord, **others: tv_tensors.Mask) -> dict[str, Any]:
        """Image, boxes, labels, crowd and ``others`` after the geometric changes, still at a size of their own."""
        height, width = pixels.shape[:2]
        changed: dict[str, Any] = self.geometric(
            {
                **others,
                "image": tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1)),
                "boxes": tv_tensors.BoundingBoxes(
                    torch.from_numpy(record.boxes), format="XYXY", canvas_size=(height, width)
                ),
                "labels": torch.from_numpy(record.labels),
                "crowd": torch.from_numpy(record.crowd),
            }
        )
        return changed

    def sample(self, changed: dict[str, Any]) -> Sample:
        """What becomes of that in the letterbox."""
        image = np.ascontiguousarray(changed["image"].permute(1, 2, 0).numpy())
        boxes = changed["boxes"].as_subclass(torch.Tensor).numpy()
        slot, placed = place(image, boxes, height=self.size.height, width=self.size.width)
        slot = self.colour(tv_tensors.Image(slot.permute(2, 0, 1))).as_subclass(torch.Tensor).permute(1, 2, 0)
        return Sample(slot.contiguous(), placed, changed["labels"], changed["crowd"])


def _geometric(augmentation: Augmentation) -> list[v2.Transform]:
    steps: list[v2.Transform] = []
    if augmentation.photometric:
        steps.append(v2.RandomApply([v2.RandomPhotometricDistort()], p=augmentation.photometric))
    if augmentation.zoom_out:
        steps.append(
            v2.RandomZoomOut(fill=PAD_VALUE, side_range=(1.0, augmentation.zoom_out_max), p=augmentation.zoom_out)
        )
    if augmentation.crop:
        crop = v2.RandomIoUCrop(min_scale=augmentation.crop_min_scale, sampler_options=list(augmentation.crop_overlaps))
        steps.append(v2.RandomApply([crop], p=augmentation.crop))
    steps.append(v2.RandomHorizontalFlip(augmentation.flip_horizontal))
    steps.append(v2.RandomVerticalFlip(augmentation.flip_vertical))
    steps.append(v2.ClampBoundingBoxes())
    steps.append(
        v2.SanitizeBoundingBoxes(
            min_size=MIN_BOX_SIDE, labels_getter=lambda sample: (sample["labels"], sample["crowd"])
        )
    )
    return steps

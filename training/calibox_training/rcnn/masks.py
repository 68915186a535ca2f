"""Masks of objects: read from COCO's `segmentation`, augmented with the image, learnt and given out by Mask R-CNN.

Letters: B images, G objects (padded) or of an image, H x W the input, h x w the image as it is.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from calibox_core.errors import DatasetError
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import InputSpec
from calibox_training.data.coco import Batch, ImageRecord, Sample, Transform, collate
from calibox_training.data.module import CocoDataModule
from calibox_training.data.transforms import TrainTransform
from calibox_training.objects import Objects

# Pixels of an object; half of it divides objects from ground after resizing, and from the grey of a larger canvas.
INSIDE = 255


class MaskedSample(NamedTuple):
    """One training image with its objects' masks."""

    sample: Sample
    masks_GHW: Tensor  # uint8, 1 inside


class MaskedBatch(NamedTuple):
    """A `Batch` with masks."""

    images: Tensor  # uint8 [B, H, W, 3]
    objects: Objects
    masks_BGHW: Tensor  # uint8, 1 inside; 0 on padding


class MaskTransform(TrainTransform):
    """The same changes for image, boxes and masks."""

    def __call__(self, pixels: NDArray[np.uint8], record: ImageRecord) -> MaskedSample:  # type: ignore[override]
        """A training sample with masks."""
        masks = tv_tensors.Mask(torch.from_numpy(rasterised(record)))
        changed = self.changed(pixels, record, masks=masks)
        slots = np.empty((len(changed["masks"]), self.size.height, self.size.width), np.uint8)
        for slot, mask in zip(slots, changed["masks"].numpy(), strict=True):
            letterbox_into(slot, np.ascontiguousarray(mask), pad_value=0)
        return MaskedSample(self.sample(changed), torch.from_numpy((slots > INSIDE // 2).astype(np.uint8)))


class MaskDataModule(CocoDataModule):
    """Training batches with masks."""

    def check(self) -> None:
        """`CocoDataModule.check`, and that every object has a mask.

        Raises:
            DatasetError: see there; or an object of the training split has no `segmentation`.
        """
        super().check()
        bare = [record for record in self.train_records if not all(record.shapes)]
        if bare:
            raise DatasetError(
                f"{self.folder.source('train')}: {len(bare)} images have objects without a segmentation (first: "
                f"{bare[0].file_name}), which Mask R-CNN learns from: add them, or take detector: faster"
            )

    def transform(self, size: InputSpec) -> Transform:
        """Of training images of one input size."""
        return MaskTransform(self.recipe.augmentation, size)  # type: ignore[return-value]  # `join` takes them

    def join(self, samples: Sequence[MaskedSample]) -> MaskedBatch:
        """Stacks images and pads objects to the most of an image."""
        batch: Batch = collate([one.sample for one in samples])
        most = batch.objects.labels_BG.shape[1]
        masks = [torch.nn.functional.pad(one.masks_GHW, (0, 0, 0, 0, 0, most - len(one.masks_GHW))) for one in samples]
        return MaskedBatch(batch.images, batch.objects, torch.stack(masks))


def rasterised(record: ImageRecord) -> NDArray[np.uint8]:
    """Masks ``[G, h, w]`` of an image's objects, `INSIDE` on them and 0 elsewhere.

    Raises:
        DatasetError: a segmentation is neither polygons nor COCO's run lengths.
    """
    masks = np.zeros((len(record.shapes), record.height, record.width), np.uint8)
    for mask, shape in zip(masks, record.shapes, strict=True):
        mask[:] = _pixels(shape, record) * np.uint8(INSIDE)
    return masks


def _pixels(shape: Any, record: ImageRecord) -> NDArray[np.uint8]:
    """0 and 1, ``[h, w]``."""
    from pycocotools import mask as coco_mask

    try:
        # Polygons and plain run lengths are encoded first; what is encoded already carries a string.
        encoded = isinstance(shape, dict) and not isinstance(shape["counts"], list)
        parts = shape if encoded else coco_mask.frPyObjects(shape, record.height, record.width)
        whole = coco_mask.merge(parts) if isinstance(parts, list) else parts
        with warnings.catch_warnings():  # pycocotools is older than NumPy 2's copy keyword
            warnings.filterwarnings("ignore", ".*doesn't accept a copy keyword.*", DeprecationWarning)
            pixels: NDArray[np.uint8] = coco_mask.decode(whole)
    except Exception as error:  # pycocotools raises bare exceptions of its own
        raise DatasetError(
            f"a segmentation of {record.file_name} is neither polygons nor COCO's run lengths: {error}"
        ) from error
    return pixels

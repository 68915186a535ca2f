"""Detection data of any layout, read as COCO documents, as fixed-size uint8 images with padded objects."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from calibox_core.boxes import clip_boxes, xywh_to_xyxy
from calibox_core.coco_check import check_document
from calibox_core.dataset import DataFolder, Split
from calibox_core.errors import DatasetError, ImageError
from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_training.objects import Objects
from calibox_training.recipe import DataSource

_log = logging.getLogger("calibox.data")

# Boxes of public data sets reach over the edge by rounding; only what goes further is counted in the warning.
_ROUNDING = 1.0  # pixels


class Sample(NamedTuple):
    """One training image."""

    image: Tensor  # uint8 [H, W, 3], RGB
    boxes: Tensor  # float32 [G, 4] x1, y1, x2, y2 in input pixels
    labels: Tensor  # int64 [G], -1 on crowd regions
    crowd: Tensor  # bool [G]


class Batch(NamedTuple):
    """Stacked samples."""

    images: Tensor  # uint8 [B, H, W, 3]
    objects: Objects


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image and its objects as annotated, in its own pixels."""

    image_id: int
    file_name: str
    width: int  # as annotated, in pixels
    height: int
    boxes: NDArray[np.float32]  # [G, 4] x1, y1, x2, y2
    labels: NDArray[np.int64]  # [G] 0-based, -1 on crowd regions
    crowd: NDArray[np.bool_]  # [G] crowd (COCO), difficult (VOC), Van and DontCare (KITTI): neither object nor ground
    shapes: tuple[Any, ...] = ()  # [G] COCO's `segmentation` as annotated, None where there is none


Transform = Callable[[NDArray[np.uint8], ImageRecord], Sample]


class CocoImages(Dataset[Sample]):
    """A split, decoded and transformed on access."""

    def __init__(self, folder: DataFolder, records: Sequence[ImageRecord], transform: Transform) -> None:
        self.folder = folder
        self.records = records
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return self.transform(read_image(self.folder, record), record)


def read_pixels(folder: DataFolder, file_name: str) -> NDArray[np.uint8]:
    """An image of the data set, uint8 ``[h, w, 3]`` RGB.

    Raises:
        DatasetError: it is missing or damaged.
    """
    path = folder.images / file_name
    try:
        return decode_image(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def read_image(folder: DataFolder, record: ImageRecord) -> NDArray[np.uint8]:
    """The pixels of a record, uint8 ``[h, w, 3]`` RGB.

    Raises:
        DatasetError: the image is missing, damaged, or of another size than its annotation says.
    """
    pixels = read_pixels(folder, record.file_name)
    height, width = pixels.shape[:2]
    if (width, height) != (record.width, record.height):
        raise DatasetError(
            f"{folder.images / record.file_name} is {width}x{height} pixels (upright), but image {record.image_id} of "
            f"its annotations is {record.width}x{record.height}: its boxes would lie elsewhere"
        )
    return pixels


def read_classes(annotations: dict[str, Any]) -> tuple[ClassInfo, ...]:
    """The categories in the order of their ids, which is the order of the graph's labels."""
    categories = sorted(annotations["categories"], key=lambda category: int(category["id"]))
    return tuple(ClassInfo(name=category["name"], category_id=category["id"]) for category in categories)


def read_records(
    annotations: dict[str, Any], classes: Sequence[ClassInfo], source: str = "the annotations"
) -> list[ImageRecord]:
    """All images of a split in the order of their ids.

    Boxes are clipped to the image. Those without area and those outside it are dropped, and one warning counts them.

    Args:
        annotations: a COCO document.
        classes: of the training split.
        source: what to call the document in messages.

    Raises:
        DatasetError: the document is unsound (see `check_document`), or has a category that is not among the classes.
    """
    check_document(annotations, source)
    label_of = {c.category_id: label for label, c in enumerate(classes)}
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        if annotation["category_id"] not in label_of:
            raise DatasetError(
                f"{source}: annotation {annotation.get('id')} names category {annotation['category_id']}, which the "
                "training split does not have"
            )
        by_image[annotation["image_id"]].append(annotation)
    images = sorted(annotations["images"], key=lambda image: int(image["id"]))
    flaws = Flaws()
    records = [_record(image, by_image[image["id"]], label_of, flaws) for image in images]
    flaws.report(source)
    return records


@dataclass(slots=True)
class Flaws:
    """What was mended while a split was read."""

    # Each box as x, y, width, height and its image's file name.
    empty: list[str] = field(default_factory=list)  # without area, dropped
    outside: list[str] = field(default_factory=list)  # do not touch their image, dropped
    overhanging: list[str] = field(default_factory=list)  # cut by more than rounding

    def report(self, source: str) -> None:
        """One warning, from the first process of a distributed run; none where nothing was found."""
        kinds = (
            (self.empty, "without area dropped"),
            (self.outside, "outside the image dropped"),
            (self.overhanging, "cut at the edge of the image"),
        )
        found = ", ".join(f"{len(boxes)} {what} (first: {boxes[0]})" for boxes, what in kinds if boxes)
        if found and os.environ.get("RANK", "0") == "0":
            _log.warning("%s: boxes %s", source, found)


def _record(
    image: dict[str, Any], annotations: list[dict[str, Any]], label_of: dict[int, int], flaws: Flaws
) -> ImageRecord:
    written = xywh_to_xyxy(np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4))
    boxes = clip_boxes(written, width=image["width"], height=image["height"])
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_)
    labels = np.array([label_of[a["category_id"]] for a in annotations], np.int64)
    whole = ((written[:, 2:] - written[:, :2]) > 0).all(axis=1)
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    cut = np.abs(written - boxes).max(axis=1, initial=0) > _ROUNDING
    for boxes_of, wrong in ((flaws.empty, ~whole), (flaws.outside, whole & ~real), (flaws.overhanging, real & cut)):
        boxes_of += [f"{annotations[row]['bbox']} in {image['file_name']}" for row in np.flatnonzero(wrong)]
    return ImageRecord(
        image_id=int(image["id"]),
        file_name=image["file_name"],
        width=int(image["width"]),
        height=int(image["height"]),
        boxes=boxes[real].astype(np.float32),
        labels=np.where(crowd, -1, labels)[real],
        crowd=crowd[real],
        shapes=tuple(annotations[row].get("segmentation") for row in np.flatnonzero(real)),
    )


def place(image: NDArray[np.uint8], boxes: NDArray[np.float32], *, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Letterboxed pixels ``[height, width, 3]`` and boxes in them."""
    slot = np.empty((height, width, 3), np.uint8)
    letterbox = letterbox_into(slot, image)
    return torch.from_numpy(slot), torch.from_numpy(letterbox.to_input(boxes))


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks images and pads objects to the most of an image."""
    most = max((len(sample.labels) for sample in samples), default=0)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), -1)
    crowd = torch.zeros(len(samples), most, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        boxes[row, :count], labels[row, :count], crowd[row, :count] = sample.boxes, sample.labels, sample.crowd
    return Batch(torch.stack([sample.image for sample in samples]), Objects(boxes, labels, crowd))


def describe_dataset(source: DataSource, folder: DataFolder) -> DatasetInfo:
    """What the manifest says of the data, with a hash over the annotation files of both splits."""
    digest = hashlib.sha256()
    splits: tuple[Split, Split] = ("train", "val")
    for split in splits:
        for path in folder.annotation_files(split):
            digest.update(path.read_bytes())
    train, val = (folder.image_count(split) for split in splits)
    return DatasetInfo(
        name=source.name,
        license=source.license,
        attribution=source.attribution,
        url=source.url,
        train_images=train,
        val_images=val,
        sha256=digest.hexdigest(),
    )

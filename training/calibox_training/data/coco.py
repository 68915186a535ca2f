"""COCO-format detection data as fixed-size uint8 images with padded objects."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from calibox_core.boxes import clip_boxes, xywh_to_xyxy
from calibox_core.dataset import CocoFolder, Split
from calibox_core.errors import DatasetError, ImageError
from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_training.criterion import Objects
from calibox_training.recipe import DataSource


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
    boxes: NDArray[np.float32]  # [G, 4] x1, y1, x2, y2
    labels: NDArray[np.int64]  # [G] 0-based, -1 on crowd regions
    crowd: NDArray[np.bool_]  # [G]


Transform = Callable[[NDArray[np.uint8], ImageRecord], Sample]


class CocoImages(Dataset[Sample]):
    """A split, decoded and transformed on access."""

    def __init__(self, folder: CocoFolder, records: Sequence[ImageRecord], transform: Transform) -> None:
        self.folder = folder
        self.records = records
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        return self.transform(read_pixels(self.folder, record.file_name), record)


def read_pixels(folder: CocoFolder, file_name: str) -> NDArray[np.uint8]:
    """An image of the data set, uint8 ``[h, w, 3]`` RGB.

    Raises:
        DatasetError: it is missing or damaged.
    """
    path = folder.images / file_name
    try:
        return decode_image(path.read_bytes())
    except (OSError, ImageError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def read_classes(annotations: dict[str, Any]) -> tuple[ClassInfo, ...]:
    """The categories in the order of their ids, which is the order of the graph's labels."""
    categories = sorted(annotations["categories"], key=lambda category: int(category["id"]))
    return tuple(ClassInfo(name=category["name"], category_id=category["id"]) for category in categories)


def read_records(annotations: dict[str, Any], classes: Sequence[ClassInfo]) -> list[ImageRecord]:
    """All images of a split in the order of their ids; boxes clipped to the image, those without area dropped.

    Raises:
        DatasetError: an annotation names a category or an image that the file does not have.
    """
    label_of = {c.category_id: label for label, c in enumerate(classes)}
    by_image: dict[int, list[dict[str, Any]]] = {int(image["id"]): [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        if annotation["category_id"] not in label_of or annotation["image_id"] not in by_image:
            raise DatasetError(
                f"annotation {annotation.get('id')} names category {annotation['category_id']} and image "
                f"{annotation['image_id']}; one of them is not in the file"
            )
        by_image[annotation["image_id"]].append(annotation)
    images = sorted(annotations["images"], key=lambda image: int(image["id"]))
    return [_record(image, by_image[int(image["id"])], label_of) for image in images]


def _record(image: dict[str, Any], annotations: list[dict[str, Any]], label_of: dict[int, int]) -> ImageRecord:
    boxes = xywh_to_xyxy(np.array([a["bbox"] for a in annotations], np.float32).reshape(-1, 4))
    boxes = clip_boxes(boxes, width=image["width"], height=image["height"])
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], np.bool_)
    labels = np.array([label_of[a["category_id"]] for a in annotations], np.int64)
    real = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(axis=1)
    return ImageRecord(
        image_id=int(image["id"]),
        file_name=image["file_name"],
        boxes=boxes[real].astype(np.float32),
        labels=np.where(crowd, -1, labels)[real],
        crowd=crowd[real],
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


def describe_dataset(source: DataSource, folder: CocoFolder) -> DatasetInfo:
    """What the manifest says of the data, with a hash over both annotation files."""
    digest = hashlib.sha256()
    splits: tuple[Split, Split] = ("train", "val")
    for split in splits:
        digest.update(folder.annotations_path(split).read_bytes())
    train, val = (folder.annotations(split) for split in splits)
    return DatasetInfo(
        name=source.name,
        license=source.license,
        attribution=source.attribution,
        url=source.url,
        train_images=len(train["images"]),
        val_images=len(val["images"]),
        sha256=digest.hexdigest(),
    )

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calibox_core.dataset import CocoFolder, Split
from calibox_core.errors import DatasetError
from calibox_core.manifest import InputSpec
from calibox_training.data.coco import (
    CocoImages,
    collate,
    describe_dataset,
    place,
    read_classes,
    read_image,
    read_pixels,
    read_records,
)
from calibox_training.data.module import CocoDataModule
from calibox_training.data.transforms import TrainTransform
from calibox_training.recipe import Augmentation, DataSource
from tests.support.coco import COLOURS, make_coco_folder
from tests.support.coco2017 import make_coco2017
from tests.support.recipes import tiny_recipe


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return make_coco_folder(tmp_path / "rectangles")


def test_records_hold_corner_boxes_labels_by_category_order_and_crowds(folder: CocoFolder) -> None:
    annotations = folder.annotations("train")
    classes = read_classes(annotations)
    assert [c.category_id for c in classes] == [5, 6]
    records = read_records(annotations, classes)
    assert [r.image_id for r in records] == sorted(i["id"] for i in annotations["images"])
    for record in records:
        own = [a for a in annotations["annotations"] if a["image_id"] == record.image_id]
        for row, a in enumerate(own):
            x, y, w, h = a["bbox"]
            assert record.boxes[row].tolist() == [x, y, x + w, y + h]
            assert record.labels[row] == (-1 if a["iscrowd"] else a["category_id"] - 5)
            assert bool(record.crowd[row]) == bool(a["iscrowd"])


def test_labels_follow_the_order_of_category_ids_whatever_the_gaps_between_them(folder: CocoFolder) -> None:
    annotations = folder.annotations("train")
    new = {5: 90, 6: 2}
    annotations["categories"] = [{**c, "id": new[c["id"]]} for c in annotations["categories"]]
    annotations["annotations"] = [
        {"id": number, "image_id": 1, "category_id": category, "bbox": [1, 1, 5, 5]}
        for number, category in enumerate((90, 2))
    ]
    classes = read_classes(annotations)
    assert [(c.category_id, c.name) for c in classes] == [(2, "blue"), (90, "red")]
    assert read_records(annotations, classes)[0].labels.tolist() == [1, 0]


def test_boxes_without_area_are_dropped_and_others_clipped(folder: CocoFolder) -> None:
    annotations = folder.annotations("train")
    image = annotations["images"][0]
    annotations["annotations"] = [
        {"id": 1, "image_id": image["id"], "category_id": 5, "bbox": [-5, -5, 20, 20]},
        {"id": 2, "image_id": image["id"], "category_id": 5, "bbox": [10, 10, 0, 5]},
        {"id": 3, "image_id": image["id"], "category_id": 5, "bbox": [500, 500, 5, 5]},
    ]
    record = read_records(annotations, read_classes(annotations))[0]
    assert record.boxes.tolist() == [[0, 0, 15, 15]]


def test_an_annotation_of_an_unknown_category_is_an_error(folder: CocoFolder) -> None:
    annotations = folder.annotations("train")
    annotations["annotations"][0]["category_id"] = 99
    with pytest.raises(DatasetError, match="category 99"):
        read_records(annotations, read_classes(annotations))


def test_dropped_and_cut_boxes_are_counted_in_one_warning(folder: CocoFolder, caplog: pytest.LogCaptureFixture) -> None:
    annotations = folder.annotations("train")
    image = annotations["images"][0]
    boxes = [[-5, -5, 20, 20], [10, 10, 0, 5], [10, 10, 5, 0], [500, 500, 5, 5], [-0.5, 0, 20, 20], [4, 4, 9, 9]]
    annotations["annotations"] = [
        {"id": number, "image_id": image["id"], "category_id": 5, "bbox": box} for number, box in enumerate(boxes)
    ]
    record = read_records(annotations, read_classes(annotations), "some.json")[0]
    assert record.boxes.tolist() == [[0, 0, 15, 15], [0, 0, 19.5, 20], [4, 4, 13, 13]]
    assert caplog.messages == [
        "some.json: boxes 2 without area dropped (first: [10, 10, 0, 5] in 1.png), "
        "1 outside the image dropped (first: [500, 500, 5, 5] in 1.png), "
        "1 cut at the edge of the image (first: [-5, -5, 20, 20] in 1.png)"
    ]


def test_sound_boxes_are_read_without_a_word(folder: CocoFolder, caplog: pytest.LogCaptureFixture) -> None:
    annotations = folder.annotations("train")
    read_records(annotations, read_classes(annotations))
    assert caplog.messages == []


def test_a_category_that_the_training_split_lacks_is_an_error(folder: CocoFolder) -> None:
    annotations = folder.annotations("val")
    classes = read_classes(annotations)[:1]
    with pytest.raises(DatasetError, match=r"annotation \d+ names category 6, which the training split does not have"):
        read_records(annotations, classes)


def test_an_image_of_another_size_than_annotated_is_an_error(folder: CocoFolder) -> None:
    annotations = folder.annotations("train")
    annotations["images"][0]["width"] += 1
    record = read_records(annotations, read_classes(annotations))[0]
    with pytest.raises(DatasetError, match=r"1\.png is 128x96 pixels \(upright\), but image 1 .* is 129x96"):
        read_image(folder, record)
    images = CocoImages(folder, [record], TrainTransform(Augmentation(), InputSpec(height=96, width=128)))
    with pytest.raises(DatasetError, match="128x96"):
        images[0]


def _rewrite(folder: CocoFolder, split: Split, change: Callable[[dict[str, Any]], None]) -> None:
    annotations = folder.annotations(split)
    change(annotations)
    folder.annotations_path(split).write_text(json.dumps(annotations))


def test_both_splits_are_checked_before_a_run(folder: CocoFolder) -> None:
    CocoDataModule(tiny_recipe(), folder, workers=0).check()
    (folder.images / "9.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of the 4 images of .*instances_val\.json are missing: .*9\.png"):
        CocoDataModule(tiny_recipe(), folder, workers=0).check()


def test_a_split_that_is_empty_or_teaches_nothing_is_refused(folder: CocoFolder) -> None:
    _rewrite(folder, "train", lambda document: [a.update(iscrowd=1) for a in document["annotations"]])
    with pytest.raises(DatasetError, match=r"instances_train\.json holds no object to learn from"):
        CocoDataModule(tiny_recipe(), folder, workers=0).check()
    _rewrite(folder, "val", lambda document: document.update(images=[], annotations=[]))
    with pytest.raises(DatasetError, match=r"instances_val\.json lists no images: the split is empty"):
        CocoDataModule(tiny_recipe(), folder, workers=0).check()


def test_a_missing_image_is_an_error_with_its_path(folder: CocoFolder) -> None:
    with pytest.raises(DatasetError, match=r"nowhere\.png"):
        read_pixels(folder, "nowhere.png")


ALL_AUGMENTATION = Augmentation(
    zoom_out=0.5, crop=0.5, flip_horizontal=0.5, flip_vertical=0.5, colour=0.0, crop_min_scale=0.5
)


@pytest.mark.parametrize("seed", range(12))
def test_augmented_boxes_stay_on_their_objects(folder: CocoFolder, seed: int) -> None:
    torch.manual_seed(seed)
    annotations = folder.annotations("train")
    records = read_records(annotations, read_classes(annotations))
    images = CocoImages(folder, records, TrainTransform(ALL_AUGMENTATION, InputSpec(height=120, width=200)))
    for sample in (images[i] for i in range(len(images))):
        assert sample.image.shape == (120, 200, 3)
        assert sample.image.dtype == torch.uint8
        for box, label in zip(sample.boxes.tolist(), sample.labels.tolist(), strict=True):
            x1, y1, x2, y2 = box
            assert -1e-3 <= x1 < x2 <= 200 + 1e-3  # float32 rounding
            assert -1e-3 <= y1 < y2 <= 120 + 1e-3
            if label >= 0:
                seen = sample.image[int(y1) : int(y2) + 1, int(x1) : int(x2) + 1].float()
                away = (seen - torch.tensor(COLOURS[label]).float()).abs().amax(dim=-1)
                assert (away < 60).any(), "the object's colour is nowhere inside its box"


def test_collate_pads_objects_and_marks_the_padding(folder: CocoFolder) -> None:
    annotations = folder.annotations("train")
    records = read_records(annotations, read_classes(annotations))
    transform = TrainTransform(Augmentation(flip_horizontal=0.0), InputSpec(height=96, width=128))
    images = CocoImages(folder, records, transform)
    samples = [images[i] for i in range(4)]
    batch = collate(samples)
    assert batch.images.shape == (4, 96, 128, 3)
    for row, sample in enumerate(samples):
        count = len(sample.labels)
        torch.testing.assert_close(batch.objects.boxes_BG4[row, :count], sample.boxes)
        assert (batch.objects.labels_BG[row, count:] == -1).all()
        assert not batch.objects.crowd_BG[row, count:].any()


def test_place_letterboxes_pixels_and_boxes_alike() -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    image[10:30, 20:60] = 255
    slot, boxes = place(image, np.array([[20, 10, 60, 30]], np.float32), height=200, width=200)
    x1, y1, x2, y2 = (int(v) for v in boxes[0])
    assert slot[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].min() == 255
    assert slot[:50].unique().tolist() == [114]


def test_the_data_hash_changes_with_the_annotations(folder: CocoFolder) -> None:
    source = DataSource(name="rectangles")
    before = describe_dataset(source, folder)
    assert (before.train_images, before.val_images) == (8, 4)
    path = folder.annotations_path("val")
    path.write_text(path.read_text() + " ")
    assert describe_dataset(source, folder).sha256 != before.sha256


def test_the_data_of_coco_2017_are_described_by_both_of_its_files(tmp_path: Path) -> None:
    folder = make_coco2017(tmp_path / "coco")
    files = [folder.root / "annotations" / f"instances_{split}2017.json" for split in ("train", "val")]
    found = describe_dataset(DataSource(name="coco"), folder)
    assert (found.train_images, found.val_images) == (8, 4)
    assert found.sha256 == hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_an_image_of_coco_2017_is_read_from_the_folder_of_its_split(tmp_path: Path) -> None:
    folder = make_coco2017(tmp_path / "coco")
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        annotations = folder.annotations(split)
        record = read_records(annotations, read_classes(annotations))[0]
        expected = np.asarray(Image.open(folder.root / f"{split}2017" / "000000000001.jpg"))
        assert np.abs(read_image(folder, record).astype(int) - expected).max() <= 3  # two JPEG decoders

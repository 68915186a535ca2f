"""Masks of Mask R-CNN: read from polygons and run lengths, changed with the image, learnt, and given out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from calibox_core.dataset import CocoFolder
from calibox_core.errors import DatasetError
from calibox_core.manifest import InputSpec
from calibox_training.data.coco import ImageRecord
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.rcnn.heads import MaskHeads
from calibox_training.rcnn.masks import INSIDE, MaskDataModule, MaskTransform, rasterised
from calibox_training.training_spec import Augmentation
from tests.support.coco import make_coco_folder
from tests.support.two_stage import tiny_rcnn


def _record(shapes: list[Any], boxes: list[list[float]], *, height: int = 20, width: int = 30) -> ImageRecord:
    count = len(boxes)
    return ImageRecord(
        image_id=1,
        file_name="1.png",
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.zeros(count, np.int64),
        crowd=np.zeros(count, np.bool_),
        shapes=tuple(shapes),
    )


# A square and another beside it as one object; the square alone as run lengths, column by column.
POLYGONS = [[4, 2, 10, 2, 10, 8, 4, 8], [20, 2, 24, 2, 24, 6, 20, 6]]
RUNS = {"size": [20, 30], "counts": [4 * 20 + 2, *([6, 14] * 5), 6, 412]}


def test_polygons_and_run_lengths_become_the_same_pixels() -> None:
    first, second = rasterised(_record([POLYGONS, RUNS], [[4, 2, 24, 8], [4, 2, 10, 8]]))
    wanted = np.zeros((20, 30), np.uint8)
    wanted[2:8, 4:10] = INSIDE
    np.testing.assert_array_equal(second, wanted)
    wanted[2:6, 20:24] = INSIDE
    np.testing.assert_array_equal(first, wanted)


def test_a_segmentation_of_something_else_is_a_sentence() -> None:
    with pytest.raises(DatasetError, match=r"a segmentation of 1\.png is neither polygons nor"):
        rasterised(_record(["here"], [[0, 0, 5, 5]]))


@pytest.mark.parametrize(
    "values",
    [
        {"flip_horizontal": 1.0},
        {"flip_horizontal": 0.0, "flip_vertical": 1.0},
        {"zoom_out": 1.0, "zoom_out_max": 2.0},
        {"crop": 1.0, "crop_overlaps": [0.5, 1.0]},
    ],
    ids=["flipped", "upside down", "zoomed out", "cropped"],
)
def test_masks_stay_on_their_boxes_whatever_happens_to_the_image(values: dict[str, Any]) -> None:
    boxes = [[8, 6, 24, 18], [30, 20, 50, 36]]
    shapes = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    record = _record(shapes, boxes, height=40, width=60)
    transform = MaskTransform(Augmentation.model_validate(values), InputSpec(height=96, width=128))
    seen = 0
    for seed in range(8):
        torch.manual_seed(seed)
        found = transform(np.zeros((40, 60, 3), np.uint8), record)
        assert found.masks_GHW.dtype == torch.uint8
        assert len(found.masks_GHW) == len(found.sample.labels)
        for mask, (x1, y1, x2, y2) in zip(found.masks_GHW, found.sample.boxes.tolist(), strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            around = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            torch.testing.assert_close(torch.tensor(around).float(), torch.tensor([x1, y1, x2, y2]), atol=2.5, rtol=0)
            assert mask.sum() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.25)
            seen += 1
    assert seen >= 8


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    """Rectangles with their outlines."""
    made = make_coco_folder(tmp_path / "rectangles", train=8)
    for split in ("train", "val"):
        path = made.root / f"instances_{split}.json"
        document = made.annotations(split)  # type: ignore[arg-type]
        for annotation in document["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(document))
    return CocoFolder(made.root)


def test_a_batch_has_masks_that_are_its_rectangles(folder: CocoFolder) -> None:
    data = MaskDataModule(tiny_rcnn("mask"), folder, workers=0)
    data.check()
    for batch in data.train_loader:
        assert batch.masks_BGHW.shape == (*batch.objects.labels_BG.shape, 96, 128)  # type: ignore[attr-defined]
        for mask, box in zip(batch.masks_BGHW.flatten(0, 1), batch.objects.boxes_BG4.flatten(0, 1), strict=True):  # type: ignore[attr-defined]
            x1, y1, x2, y2 = box.round().int().tolist()
            assert mask.sum() == mask[y1:y2, x1:x2].sum() == (x2 - x1) * (y2 - y1)


def test_objects_without_a_segmentation_are_a_sentence(tmp_path: Path) -> None:
    bare = make_coco_folder(tmp_path / "rectangles")
    with pytest.raises(DatasetError, match=r"without a segmentation .* take detector: faster"):
        MaskDataModule(tiny_rcnn("mask"), bare, workers=0).check()


def test_the_mask_loss_falls_and_masks_come_out_in_the_images_size(folder: CocoFolder) -> None:
    torch.manual_seed(0)
    data = MaskDataModule(tiny_rcnn("mask", augmentation__flip_horizontal=0.0), folder, workers=0)
    detector = RcnnDetector(data.recipe.model, classes=2).train()  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=0.003)
    losses = []
    (batch,) = [next(iter(data.train_loader))]
    for step in range(25):
        generator = torch.Generator().manual_seed(step)
        found = detector.losses(batch.images, batch.objects, generator, batch.masks_BGHW)  # type: ignore[attr-defined]
        optimizer.zero_grad()
        torch.stack(list(found.values())).sum().backward()
        optimizer.step()
        losses.append(found["loss_mask"].item())
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    heads = detector.eval().roi_heads
    assert isinstance(heads, MaskHeads)
    real = batch.objects.labels_BG >= 0
    boxes = [boxes[keep] for boxes, keep in zip(batch.objects.boxes_BG4, real, strict=True)]
    with torch.no_grad():
        masks = heads.masks(detector.pyramid(batch.images), boxes, batch.objects.labels_BG[real], (96, 128))
    assert masks.shape == (int(real.sum()), 96, 128)
    assert 0 <= masks.min() <= masks.max() <= 1
    x1, y1, x2, y2 = torch.cat(boxes)[0].round().int().tolist()
    assert masks[0, y1:y2, x1:x2].mean() > 0.5
    masks[0, max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = 0
    assert masks[0].sum() == 0  # nothing of the object is far from its box

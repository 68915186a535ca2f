"""The data of a training run: both splits and the loader of the training split."""

from functools import cached_property
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from calibox_core.dataset import CocoFolder
from calibox_core.manifest import ClassInfo
from calibox_training.data.coco import CocoImages, ImageRecord, Sample, collate, read_classes, read_records
from calibox_training.data.transforms import TrainTransform
from calibox_training.recipe import Recipe


class CocoDataModule(LightningDataModule):
    """Training batches, and the validation records that `Evaluator` reads by itself."""

    def __init__(self, recipe: Recipe, folder: CocoFolder, *, workers: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.folder = folder
        self.workers = workers

    @cached_property
    def train_annotations(self) -> dict[str, Any]:
        """The training split's document."""
        return self.folder.annotations("train")

    @cached_property
    def val_annotations(self) -> dict[str, Any]:
        """The validation split's document."""
        return self.folder.annotations("val")

    @cached_property
    def classes(self) -> tuple[ClassInfo, ...]:
        """Classes in the order of labels."""
        return read_classes(self.train_annotations)

    @cached_property
    def val_records(self) -> list[ImageRecord]:
        """Images of the validation split in the order of their ids."""
        return read_records(self.val_annotations, self.classes)

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled batches of the training split; the last, smaller one is dropped."""
        images = CocoImages(
            self.folder,
            read_records(self.train_annotations, self.classes),
            TrainTransform(self.recipe.augmentation, self.recipe.input),
        )
        return DataLoader(
            images,
            batch_size=self.recipe.schedule.batch_size,
            shuffle=True,
            drop_last=len(images) > self.recipe.schedule.batch_size,
            num_workers=self.workers,
            collate_fn=collate,
            persistent_workers=self.workers > 0,
        )

    def val_dataloader(self) -> range:
        """Positions in `val_records`, one step each; under DDP every process takes its share of them."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return range(rank, len(self.val_records), world)

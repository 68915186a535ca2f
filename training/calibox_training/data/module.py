"""The data of a training run: both splits and the loader of the training split."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

from lightning.pytorch import LightningDataModule

from calibox_core.coco_check import check_files
from calibox_core.dataset import DataFolder, Split
from calibox_core.errors import DatasetError
from calibox_core.manifest import ClassInfo, InputSpec
from calibox_training.data.coco import CocoImages, ImageRecord, Transform, collate, read_classes, read_records
from calibox_training.data.sampling import EpochBatches, ResumableLoader, SeededImages
from calibox_training.data.transforms import TrainTransform
from calibox_training.recipe import RunRecipe


class CocoDataModule(LightningDataModule):
    """Training batches, and the validation records that `Evaluator` reads by itself."""

    def __init__(self, recipe: RunRecipe, folder: DataFolder, *, workers: int) -> None:
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
        return read_records(self.val_annotations, self.classes, self.folder.source("val"))

    @cached_property
    def train_records(self) -> list[ImageRecord]:
        """Images of the training split in the order of their ids."""
        return read_records(self.train_annotations, self.classes, self.folder.source("train"))

    def check(self) -> None:
        """Looks over both splits before a run starts, without opening an image of a COCO folder.

        Raises:
            DatasetError: annotations are unsound, image files are missing, or there is no object to learn from.
        """
        splits: tuple[tuple[Split, list[ImageRecord]], ...] = (("train", self.train_records), ("val", self.val_records))
        for split, records in splits:
            check_files(self.folder.images, [record.file_name for record in records], self.folder.source(split))
        if not any((record.labels >= 0).any() for record in self.train_records):
            raise DatasetError(f"{self.folder.source('train')} holds no object to learn from")

    @cached_property
    def batches(self) -> EpochBatches:
        """The batches of this process."""
        rank, world = self._place()
        return EpochBatches(
            len(self.train_annotations["images"]),
            batch_size=self.recipe.schedule.batch_size,
            seed=self.recipe.seed,
            sizes=training_sizes(self.recipe),
            rank=rank,
            world=world,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Weight averaging copies the training module; the data are shared by both."""
        return self

    def train_dataloader(self) -> ResumableLoader:
        """What Lightning asks for."""
        return self.train_loader

    @cached_property
    def train_loader(self) -> ResumableLoader:
        """Shuffled batches of the training split; what does not fill a batch is left out."""
        records = self.train_records
        by_size = {
            size: CocoImages(self.folder, records, self.transform(InputSpec(height=size[0], width=size[1])))
            for size in self.batches.sizes
        }
        images = SeededImages(by_size, seed=self.recipe.seed)
        return ResumableLoader(images, self.batches, workers=self.workers, join=self.join)

    def transform(self, size: InputSpec) -> Transform:
        """Of training images of one input size."""
        return TrainTransform(self.recipe.augmentation, size)

    def join(self, samples: Sequence[Any]) -> Any:
        """A `Batch` of samples."""
        return collate(samples)

    def val_dataloader(self) -> range:
        """Positions in `val_records`, one step each; under DDP every process takes its share of them."""
        rank, world = self._place()
        return range(rank, len(self.val_records), world)

    def _place(self) -> tuple[int, int]:
        """Number of this process and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def training_sizes(recipe: RunRecipe) -> tuple[tuple[int, int], ...]:
    """Input sizes of training batches, height and width: the recipe's list, or its one input."""
    return recipe.augmentation.sizes or ((recipe.input.height, recipe.input.width),)

"""The training loop's body of two-stage detectors."""

import torch
from torch import Tensor

from calibox_core.manifest import DatasetInfo
from calibox_training.data.coco import Batch
from calibox_training.data.module import CocoDataModule
from calibox_training.evaluation import CandidateSource
from calibox_training.objects import Objects
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.rcnn.evaluation import RcnnCandidates
from calibox_training.rcnn.masks import MaskedBatch
from calibox_training.rcnn.recipe import RcnnRecipe
from calibox_training.run_module import RunModule


class RcnnModule(RunModule):
    """Trains an `RcnnDetector` by its recipe and validates it with COCO metrics."""

    recipe: RcnnRecipe
    detector: RcnnDetector

    def __init__(self, recipe: RcnnRecipe, data: CocoDataModule, dataset: DatasetInfo) -> None:
        super().__init__(recipe, RcnnDetector(recipe.model, classes=len(data.classes)), data, dataset)
        self.train()  # Lightning leaves the modes as it finds them

    def training_step(self, batch: Batch | MaskedBatch) -> Tensor:
        """Loss of one batch; `RunModule.on_train_batch_start` has just seeded the generator."""
        masks = batch.masks_BGHW if isinstance(batch, MaskedBatch) else None
        losses = self.detector.losses(batch.images, Objects(*batch.objects), torch.default_generator, masks)
        total = torch.stack(list(losses.values())).sum()
        self.log_losses(total, losses, images=len(batch.images))
        return total

    def candidate_source(self) -> CandidateSource:
        """The detector in eval mode, as Lightning puts it before it validates."""
        size = self.recipe.input
        return RcnnCandidates(self.detector, (size.height, size.width))

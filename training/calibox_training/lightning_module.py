"""The training loop's body of single-stage detectors."""

from collections.abc import Callable

import torch
from torch import Tensor

from calibox_core.manifest import DatasetInfo
from calibox_training.anchors import AnchorSet
from calibox_training.criterion import Criterion
from calibox_training.data.coco import Batch
from calibox_training.data.module import CocoDataModule
from calibox_training.evaluation import CandidateSource
from calibox_training.inference import CandidateGraph
from calibox_training.models.detector import Detector
from calibox_training.models.heads import HeadOutput
from calibox_training.objects import Objects
from calibox_training.recipe import Recipe
from calibox_training.run_module import RunModule


class DetectorModule(RunModule):
    """Trains a `Detector` by its recipe and validates it with COCO metrics."""

    recipe: Recipe
    detector: Detector

    def __init__(
        self, recipe: Recipe, data: CocoDataModule, dataset: DatasetInfo, *, compile_detector: bool = False
    ) -> None:
        super().__init__(recipe, Detector(recipe.model, classes=len(data.classes)), data, dataset)
        self.compile_detector = compile_detector
        self.criterion = Criterion(recipe.model, recipe.loss)
        self.anchors_by_size: dict[tuple[int, int], AnchorSet] = {}
        self.compiled: list[Callable[[Tensor], HeadOutput]] = []  # in a list, so that it is no submodule
        self.train()  # Lightning leaves the modes as it finds them

    def on_train_start(self) -> None:
        """Compiles what the run compiles, after whatever copies the module has copied it."""
        if self.compile_detector:
            self.compiled = [torch.compile(self.detector, dynamic=False)]

    def training_step(self, batch: Batch) -> Tensor:
        """Loss of one batch."""
        images = self.detector.normalise(batch.images)
        if not self.recipe.schedule.channels_last:
            images = images.contiguous()
        forward = self.compiled[0] if self.compiled else self.detector
        losses = self.criterion(forward(images), self._anchors(*batch.images.shape[1:3]), Objects(*batch.objects))
        names = ("loss_classification", "loss_box", "loss_quality")
        self.log_losses(losses.total, dict(zip(names, losses[1:], strict=True)), images=len(batch.images))
        return losses.total

    def _anchors(self, height: int, width: int) -> AnchorSet:
        """All levels' anchors on this device, kept for each input size."""
        found = self.anchors_by_size.get((height, width))
        if found is None or found.boxes_A4.device != self.device:
            found = self.detector.anchors(height, width).to(self.device)
            self.anchors_by_size[height, width] = found
        return found

    def candidate_source(self) -> CandidateSource:
        """The evaluation graph."""
        size = self.recipe.input
        graph = CandidateGraph(
            self.detector, height=size.height, width=size.width, per_level_top_k=self.recipe.per_level_top_k
        )
        return graph.to(self.device)

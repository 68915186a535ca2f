"""The training loop's body for Lightning."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from calibox_core.manifest import DatasetInfo
from calibox_training.checkpoint import METADATA_KEY, current_commit, metadata
from calibox_training.criterion import Criterion, Objects
from calibox_training.data.coco import Batch
from calibox_training.data.module import CocoDataModule
from calibox_training.evaluation import Evaluator, ImageResult, summarise
from calibox_training.inference import CandidateGraph
from calibox_training.models.detector import Detector
from calibox_training.recipe import Recipe
from calibox_training.schedule import learning_rate_factor


class DetectorModule(LightningModule):
    """Trains a `Detector` by its recipe and validates it with COCO metrics."""

    def __init__(self, recipe: Recipe, data: CocoDataModule, dataset: DatasetInfo) -> None:
        super().__init__()
        self.recipe = recipe
        self.data = data
        self.dataset = dataset
        self.detector = Detector(recipe.model, classes=len(data.classes)).to(memory_format=torch.channels_last)
        self.criterion = Criterion(recipe.model, recipe.loss)
        self.commit = current_commit()
        self.metrics: dict[str, float | None] = {}
        self.results: list[ImageResult] = []
        self.evaluator = Evaluator(
            data.folder, data.classes, recipe.fusion, recipe.nms, iou_threshold=recipe.thresholds.iou
        )

    def training_step(self, batch: Batch) -> Tensor:
        """Loss of one batch."""
        found = self.detector(self.detector.normalise(batch.images))
        anchors = torch.cat(self.detector.anchors(*batch.images.shape[1:3])).to(self.device)
        losses = self.criterion(found, anchors, Objects(*batch.objects))
        names = ("loss", "loss_classification", "loss_box", "loss_quality")
        for name, value in zip(names, losses, strict=True):
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", batch_size=len(batch.images))
        return losses.total

    def on_validation_epoch_start(self) -> None:
        """Builds the evaluation graph around the current (averaged) weights."""
        self.results = []
        size = self.recipe.input
        self.graph = [
            CandidateGraph(
                self.detector, height=size.height, width=size.width, per_level_top_k=self.recipe.per_level_top_k
            ).to(self.device)
        ]  # in a list, so that it is no submodule and stays out of checkpoints

    def validation_step(self, position: int) -> None:
        """One image in float32, whatever the training's precision: what is measured is what is exported."""
        with torch.autocast(self.device.type, enabled=False):
            self.results.append(self.evaluator.run(self.graph[0], self.data.val_records[position]))

    def on_validation_epoch_end(self) -> None:
        """COCO metrics over all processes."""
        results = _gather(self.results)
        self.metrics, _ = summarise(self.data.val_annotations, results)
        known = {f"val/{name}": value for name, value in self.metrics.items() if value is not None}
        self.log_dict(known, rank_zero_only=True)
        self.log("AP", self.metrics["AP"] or 0.0, prog_bar=True, logger=False, rank_zero_only=True)
        self.graph = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """SGD or AdamW over what is trained, without weight decay on norms and biases."""
        schedule = self.recipe.schedule
        parameters = [p for p in self.detector.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": schedule.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer: Optimizer
        if schedule.optimizer == "sgd":
            optimizer = SGD(groups, lr=schedule.learning_rate, momentum=schedule.momentum)
        else:
            optimizer = AdamW(groups, lr=schedule.learning_rate)
        total = int(self.trainer.estimated_stepping_batches)
        factor = learning_rate_factor(schedule, steps_per_epoch=max(1, total // schedule.epochs), total_steps=total)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what export needs."""
        checkpoint[METADATA_KEY] = metadata(self.recipe, self.data.classes, self.dataset, self.commit, self.metrics)


def _gather(results: list[ImageResult]) -> list[ImageResult]:
    if not (dist.is_available() and dist.is_initialized()):
        return results
    gathered: list[list[ImageResult]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, results)
    return [result for share in gathered for result in share]

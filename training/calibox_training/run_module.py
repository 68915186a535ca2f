"""What every training run does, whatever the detector: Lightning's hooks around a loss and a source of candidates."""

from abc import abstractmethod
from typing import Any, Self

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from calibox_core.manifest import DatasetInfo
from calibox_training.checkpoint import METADATA_KEY, current_commit, metadata
from calibox_training.data.module import CocoDataModule
from calibox_training.data.sampling import step_seed
from calibox_training.evaluation import CandidateSource, Evaluator, ImageResult, summarise
from calibox_training.processes import summed
from calibox_training.recipe import RecipeError, RunRecipe
from calibox_training.schedule import build_schedulers

PROGRESS_KEY = "calibox_progress"  # what goes on in the middle of an epoch and is in no state dict of Lightning's


class RunModule(LightningModule):
    """Optimises a detector by its recipe and validates it with COCO metrics.

    Args:
        recipe: of any kind.
        detector: as the recipe built it; its weights are below `checkpoint.DETECTOR_PREFIX` in checkpoints.
        data: of the run.
        dataset: what checkpoints say of the data.
    """

    def __init__(self, recipe: RunRecipe, detector: nn.Module, data: CocoDataModule, dataset: DatasetInfo) -> None:
        super().__init__()
        self.recipe = recipe
        self.data = data
        self.dataset = dataset
        self.detector: nn.Module = detector
        if recipe.schedule.channels_last:
            self.detector.to(memory_format=torch.channels_last)
        self.frozen = freeze(self.detector, recipe.schedule.freeze)
        self.commit = current_commit()
        self.metrics: dict[str, float | None] = {}
        self.results: list[ImageResult] = []
        self.evaluator = Evaluator(
            data.folder, data.classes, recipe.fusion, recipe.nms, iou_threshold=recipe.thresholds.iou
        )
        self.source: list[CandidateSource] = []  # in a list, so that it is no submodule and stays out of checkpoints
        self.epoch_loss = torch.zeros(2)  # sum of the batches' losses, and their number
        self.plateau: ReduceLROnPlateau | None = None
        self.plateau_state: dict[str, Any] | None = None

    @abstractmethod
    def candidate_source(self) -> CandidateSource:
        """What validation runs, around the current (averaged) weights."""

    def train(self, mode: bool = True) -> Self:
        """Keeps the statistics of frozen modules."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def on_train_epoch_start(self) -> None:
        """Forgets the earlier epoch's loss; Lightning does not call this where an epoch goes on."""
        self.epoch_loss = torch.zeros(2, device=self.device)

    def on_train_batch_start(self, *_: object) -> None:
        """Makes whatever a step draws a function of its place in the run, so that a resumed run draws the same."""
        place = self.data.train_loader.batches_given
        torch.manual_seed(step_seed(self.recipe.seed, step=place, rank=self.global_rank))

    def log_losses(self, total: Tensor, parts: dict[str, Tensor], *, images: int) -> None:
        """Writes the loss and its parts to the logs, and adds it to the epoch's."""
        for name, value in {"loss": total, **parts}.items():
            self.log(f"train/{name}", value.detach(), prog_bar=name == "loss", batch_size=images)
        loss = total.detach().float()
        self.epoch_loss = self.epoch_loss.to(loss.device) + torch.stack([loss, torch.ones_like(loss)])

    def on_train_epoch_end(self) -> None:
        """Lets the mean loss of the epoch, over all processes, decide whether the learning rate falls."""
        if self.plateau is not None:
            total, count = summed(self.epoch_loss).tolist()
            self.plateau.step(total / max(1.0, count))

    def on_validation_epoch_start(self) -> None:
        """Builds what is evaluated."""
        self.results = []
        self.source = [self.candidate_source()]

    def validation_step(self, position: int) -> None:
        """One image in float32, whatever the training's precision: what is measured is what is exported."""
        with torch.autocast(self.device.type, enabled=False):
            self.results.append(self.evaluator.run(self.source[0], self.data.val_records[position]))

    def on_validation_epoch_end(self) -> None:
        """COCO metrics over all processes."""
        results = _gather(self.results)
        self.metrics, _ = summarise(self.data.val_annotations, results)
        known = {f"val/{name}": value for name, value in self.metrics.items() if value is not None}
        self.log_dict(known, rank_zero_only=True)
        self.log("AP", self.metrics["AP"] or 0.0, prog_bar=True, logger=False, rank_zero_only=True)
        self.source = []

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
        steps = -(-len(self.data.batches) // schedule.accumulate)
        scheduler, self.plateau = build_schedulers(optimizer, schedule, steps_per_epoch=steps)
        if self.plateau is not None and self.plateau_state is not None:
            self.plateau.load_state_dict(self.plateau_state)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what export needs, and what an epoch that goes on needs."""
        checkpoint[METADATA_KEY] = metadata(self.recipe, self.data.classes, self.dataset, self.commit, self.metrics)
        checkpoint[PROGRESS_KEY] = {
            # Every process resumes with an equal share of what all of them had summed.
            "epoch_loss": summed(self.epoch_loss).cpu() / self.trainer.world_size,
            "plateau": self.plateau.state_dict() if self.plateau is not None else None,
            # Lightning gives a loader its state back inside an epoch only, not where a new one begins.
            "loader": self.data.train_loader.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the metrics of the last validation and the epoch's loss so far."""
        self.metrics = checkpoint[METADATA_KEY]["metrics"]
        progress = checkpoint.get(PROGRESS_KEY)  # absent from checkpoints before there were any inside an epoch
        if progress is not None:
            self.epoch_loss, self.plateau_state = progress["epoch_loss"], progress["plateau"]
            if "loader" in progress:
                self.data.train_loader.load_state_dict(progress["loader"])


def freeze(detector: nn.Module, prefixes: tuple[str, ...]) -> list[nn.Module]:
    """Stops the training of the modules and parameters below these prefixes.

    Returns: those modules; keep them in eval mode, or their batch-norm statistics still move.

    Raises:
        RecipeError: a prefix names nothing.
    """
    modules = {name: module for name, module in detector.named_modules() if _below(name, prefixes)}
    parameters = {name: value for name, value in detector.named_parameters() if _below(name, prefixes)}
    for prefix in prefixes:
        if not any(_below(name, (prefix,)) for name in [*modules, *parameters]):
            known = ", ".join(name for name, _ in detector.named_modules() if name and name.count(".") < 2)
            raise RecipeError(f"schedule.freeze names {prefix}, which this detector does not have; it has {known}")
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    return list(modules.values())


def _below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _gather(results: list[ImageResult]) -> list[ImageResult]:
    if not (dist.is_available() and dist.is_initialized()):
        return results
    gathered: list[list[ImageResult]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, results)
    return [result for share in gathered for result in share]

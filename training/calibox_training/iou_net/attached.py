"""IoU-Net beside a detector that is known by its boxes alone: backbone and predictor, trained together.

Source: IoU-Net, arXiv 1807.11590, section 3.1, whose predictor is trained apart from the detector it serves. Here the
features are its own as well, and the detector's boxes on the training split are among the training boxes, as far as
they hit an object.

Letters: R training boxes.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from calibox_core.dataset import DataFolder
from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_core.nms import NmsAttributes
from calibox_training.checkpoint import current_commit, read_saved
from calibox_training.data.coco import Batch, describe_dataset
from calibox_training.data.module import CocoDataModule
from calibox_training.iou_net.features import outputs_of_boxes
from calibox_training.iou_net.foreign_boxes import ForeignBoxes, apart, boxes_near_objects, with_boxes
from calibox_training.iou_net.jitter import JitteredBoxes, jittered_boxes
from calibox_training.iou_net.objective import validate
from calibox_training.iou_net.predictor import IouPredictor, predictor_loss
from calibox_training.iou_net.quality_backbone import QualityBackbone, QualityBackboneSpec
from calibox_training.iou_net.spec import JitterSpec, PredictorSpec, RefinementSpec
from calibox_training.iou_net.systems import CANDIDATE_FLOOR
from calibox_training.iou_net.training_loop import Learner, Metrics, fit, require_plain
from calibox_training.machine import RunError, device_type
from calibox_training.parts import Fraction
from calibox_training.recipe import RunRecipe, parse_as
from calibox_training.run_checkpoints import LAST_CHECKPOINT, AtomicCheckpointIO
from calibox_training.train import METRICS, write_json
from calibox_training.training_spec import Schedule

log = logging.getLogger(__name__)

ATTACHED_KEY = "attached_iou_net"  # beside the weights; tells these checkpoints from others


class AttachedRecipe(RunRecipe):
    """Everything that makes an attached IoU-Net, apart from the detector and the place of the data."""

    kind: Literal["attached"] = "attached"
    schedule: Schedule = Field(
        default=Schedule(
            optimizer="adamw",
            learning_rate=1e-3,
            weight_decay=0.05,
            epochs=12,
            batch_size=8,
            warmup_iterations=100,
            decay="cosine",
            clip_norm=10.0,
        )
    )
    nms: NmsAttributes = Field(
        default=NmsAttributes(candidate_floor=CANDIDATE_FLOOR),
        description="Only boxes above the candidate floor are known of the detector.",
    )
    features: QualityBackboneSpec = Field(default_factory=QualityBackboneSpec)
    predictor: PredictorSpec = Field(
        default=PredictorSpec(width=256, initialisation="he"),
        description="Narrower than the paper's 1024, as its backbone is.",
    )
    jitter: JitterSpec = Field(default=JitterSpec(per_image=128))
    detector_share: Fraction = Field(
        default=0.5, description="Of the loss, what the detector's own boxes contribute; jittered objects the rest."
    )
    refinement: RefinementSpec = Field(default_factory=RefinementSpec)


@dataclass(frozen=True, slots=True)
class AttachedModel:
    """A trained IoU-Net in eval mode, and what a manifest says of it."""

    features: QualityBackbone
    predictor: IouPredictor
    recipe: AttachedRecipe
    classes: tuple[ClassInfo, ...]
    dataset: DatasetInfo
    detector: dict[str, Any]  # plain values that describe the detector, its files' hashes among them
    commit: str
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class AttachedRun:
    """Where and how to train."""

    output: Path
    accelerator: str = "auto"
    workers: int = 2


def train_attached(
    recipe: AttachedRecipe,
    folder: DataFolder,
    found: Sequence[ForeignBoxes],
    detector: dict[str, Any],
    run: AttachedRun,
) -> Path:
    """Trains and writes ``<output>/checkpoints/last.ckpt`` after every epoch, and ``metrics.json`` as `validate` does.

    Args:
        recipe: of the training.
        folder: images and objects.
        found: the detector's boxes on the training split, image by image in the order of ids.
        detector: what the checkpoint says of it.
        run: where and how.

    Returns: the checkpoint.

    Raises:
        RunError: the output folder holds another run, the schedule asks for what this training does not do, or this
            machine lacks the accelerator.
        DatasetError: see `CocoDataModule.check`.
    """
    last = run.output / "checkpoints" / LAST_CHECKPOINT
    if last.exists():
        raise RunError(f"{run.output} holds a run already; choose another output folder")
    require_plain(recipe.schedule)
    device = torch.device(device_type(run.accelerator))
    data = CocoDataModule(recipe, folder, workers=run.workers)
    data.check()
    classes, dataset = data.classes, describe_dataset(recipe.data, folder)
    torch.manual_seed(recipe.seed)
    features = QualityBackbone(recipe.features).to(device)
    predictor = IouPredictor(recipe.predictor, features=features.channels, classes=len(classes)).to(device)

    def measured() -> Metrics:
        features.eval()
        metrics = validate(features, predictor, data, recipe.jitter, recipe.seed)
        features.train()
        return metrics

    def after_epoch(epoch: int, metrics: Metrics) -> None:
        log.info("epoch %d: %s", epoch, metrics)
        whole = AttachedModel(features, predictor, recipe, classes, dataset, detector, current_commit(), metrics)
        AtomicCheckpointIO().save_checkpoint(_contents(whole), last)

    learner = Learner(
        parameters=[p for module in (features, predictor) for p in module.parameters() if p.requires_grad],
        loss=lambda batch, generator: attached_loss(features, predictor, batch, recipe, generator),
        validate=measured,
        after_epoch=after_epoch,
    )
    with_found = _WithBoxes(recipe, folder, found, workers=run.workers)
    write_json(run.output / METRICS, fit(learner, with_found, recipe.schedule, seed=recipe.seed))
    return last


class _WithBoxes(CocoDataModule):
    """Training records that carry the detector's boxes."""

    def __init__(self, recipe: RunRecipe, folder: DataFolder, found: Sequence[ForeignBoxes], *, workers: int) -> None:
        super().__init__(recipe, folder, workers=workers)
        records, classes = self.train_records, len(self.classes)
        self.train_records = [with_boxes(*pair, classes=classes) for pair in zip(records, found, strict=True)]


def attached_loss(
    features: QualityBackbone,
    predictor: IouPredictor,
    batch: Batch,
    recipe: AttachedRecipe,
    generator: torch.Generator,
) -> Tensor:
    """Loss of jittered objects and of the detector's boxes, mixed by the recipe's share; it reaches every weight."""
    classes = predictor.output.out_features
    objects, found = apart(batch.objects, classes=classes)
    height, width = batch.images.shape[1:3]
    near = jittered_boxes(objects, recipe.jitter, height=height, width=width, generator=generator)
    own = boxes_near_objects(objects, found, least_iou=recipe.jitter.least_iou)
    both = JitteredBoxes(*(torch.cat(pair) for pair in zip(near, own, strict=True)))
    outputs = outputs_of_boxes(predictor, features.maps(batch.images), both.boxes_R4, both.image_R, features.levels)
    weight, many = predictor.spec.loss_weight, len(near.iou_R)
    jittered = predictor_loss(outputs[:many], near.label_R, near.iou_R, weight=weight)
    detected = predictor_loss(outputs[many:], own.label_R, own.iou_R, weight=weight)
    return (1 - recipe.detector_share) * jittered + recipe.detector_share * detected


def _contents(model: AttachedModel) -> dict[str, Any]:
    modules = {"features": model.features, "predictor": model.predictor}
    return {
        "state_dict": {
            f"{module}.{name}": value.cpu()
            for module, net in modules.items()
            for name, value in net.state_dict().items()
        },
        ATTACHED_KEY: {
            "recipe": model.recipe.model_dump(mode="json"),
            "classes": [c.model_dump(mode="json") for c in model.classes],
            "dataset": model.dataset.model_dump(mode="json"),
            "detector": model.detector,
            "commit": model.commit,
            "metrics": model.metrics,
        },
    }


def load_attached(path: Path) -> AttachedModel:
    """What `train_attached` wrote, in eval mode.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    saved = read_saved(path, ATTACHED_KEY, otherwise="was not written by `calibox attach-quality`")
    facts = saved[ATTACHED_KEY]
    recipe = parse_as(AttachedRecipe, facts["recipe"], source=f"the recipe in {path}")
    classes = tuple(ClassInfo.model_validate(c) for c in facts["classes"])
    # The weights follow from the file itself; the backbone's starting point is not needed again.
    features = QualityBackbone(recipe.features.model_copy(update={"backbone_weights": "none"}))
    predictor = IouPredictor(recipe.predictor, features=features.channels, classes=len(classes))
    for prefix, net in (("features.", features), ("predictor.", predictor)):
        state = {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
        net.load_state_dict(state)
    return AttachedModel(
        features.eval(),
        predictor.eval(),
        recipe,
        classes,
        DatasetInfo.model_validate(facts["dataset"]),
        facts["detector"],
        facts["commit"],
        facts["metrics"],
    )

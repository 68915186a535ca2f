"""What the standalone IoU-Net learns from a batch, and how well it does on the validation split."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibox_core.coco_metrics import score_iou_correlations
from calibox_core.dataset import DataFolder
from calibox_training.data.coco import Batch, ImageRecord, Sample, collate, place, read_image
from calibox_training.data.module import CocoDataModule
from calibox_training.data.sampling import step_seed
from calibox_training.iou_net.features import FeatureSource, outputs_of_boxes
from calibox_training.iou_net.jitter import JitteredBoxes, jittered_boxes
from calibox_training.iou_net.predictor import IouPredictor, output_of_class, predicted_iou, predictor_loss
from calibox_training.iou_net.spec import JitterSpec


def training_loss(
    features: FeatureSource, predictor: IouPredictor, batch: Batch, jitter: JitterSpec, generator: torch.Generator
) -> Tensor:
    """The predictor's loss on jittered boxes of one batch; its gradient reaches the predictor alone."""
    outputs, boxes = _predicted(features, predictor, batch, jitter, generator)
    return predictor_loss(outputs, boxes.label_R, boxes.iou_R, weight=predictor.spec.loss_weight)


@torch.no_grad()
def validate(
    features: FeatureSource, predictor: IouPredictor, data: CocoDataModule, jitter: JitterSpec, seed: int
) -> dict[str, float | None]:
    """Error and correlation of the predicted IoU on the validation split; the boxes are the same every time."""
    device = next(predictor.parameters()).device
    found: list[NDArray[np.float32]] = [np.empty((2, 0), np.float32)]
    for position, batch in enumerate(validation_batches(data)):
        generator = batch_generator(seed, -1 - position)
        outputs, boxes = _predicted(features, predictor, on_device(batch, device), jitter, generator)
        predicted = predicted_iou(output_of_class(outputs, boxes.label_R))
        found.append(torch.stack([predicted, boxes.iou_R]).cpu().numpy())
    predicted_N, true_N = np.concatenate(found, axis=1)
    correlations = score_iou_correlations(np.ones_like(true_N), predicted_N, predicted_N, true_N)
    error = float(np.abs(predicted_N - true_N).mean()) if len(true_N) else None
    return {"iou_error": error, **{key: correlations[key] for key in ("pearson_localization", "pearson_n")}}


def _predicted(
    features: FeatureSource, predictor: IouPredictor, batch: Batch, jitter: JitterSpec, generator: torch.Generator
) -> tuple[Tensor, JitteredBoxes]:
    """Raw outputs ``[R, C]`` of the jittered boxes of a batch."""
    height, width = batch.images.shape[1:3]
    boxes = jittered_boxes(batch.objects, jitter, height=height, width=width, generator=generator)
    maps = features.maps(batch.images)
    return outputs_of_boxes(predictor, maps, boxes.boxes_R4, boxes.image_R, features.levels), boxes


def validation_batches(data: CocoDataModule) -> Iterator[Batch]:
    """Images of the validation split as they are, letterboxed to the recipe's input."""
    size, many, records = data.recipe.input, data.recipe.schedule.batch_size, data.val_records
    for start in range(0, len(records), many):
        yield collate(
            [_sample(data.folder, record, size.height, size.width) for record in records[start : start + many]]
        )


def _sample(folder: DataFolder, record: ImageRecord, height: int, width: int) -> Sample:
    image, boxes = place(read_image(folder, record), record.boxes, height=height, width=width)
    return Sample(image, boxes, torch.from_numpy(record.labels), torch.from_numpy(record.crowd))


def batch_generator(seed: int, step: int) -> torch.Generator:
    """Of one batch; validation counts below 0, where no training step is."""
    return torch.Generator().manual_seed(step_seed(seed, step=step % 2**32, rank=0))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    objects = type(batch.objects)(*(value.to(device) for value in batch.objects))
    return Batch(batch.images.to(device), objects)

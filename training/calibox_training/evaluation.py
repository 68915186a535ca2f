"""Validation in PyTorch: the same letterbox, candidates, reference CalibratedNMS and metrics as everywhere else."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibox_core.boxes import pairwise_iou, xyxy_to_xywh
from calibox_core.coco_metrics import Metrics, coco_metrics, load_ground_truth, score_iou_correlations
from calibox_core.dataset import DataFolder
from calibox_core.format_metrics import format_metrics
from calibox_core.fusion import Fusion, fuse
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import ClassInfo
from calibox_core.nms import Candidates, Detections, NmsAttributes, calibrated_nms, select_candidates
from calibox_training.data.coco import ImageRecord, read_image

# Every detection counts for AP, whatever its score.
NO_THRESHOLD = 0.0


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What one image contributes to the metrics."""

    detections: list[dict[str, Any]]  # COCO results with the three scores
    correlation: NDArray[np.float32]  # [K, 4]: p, q, fused score, true IoU of candidates before NMS


class CandidateSource(Protocol):
    """What gives boxes before NMS: a `CandidateGraph`, or a two-stage detector."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its input in pixels."""
        ...

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        ...

    def __call__(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``[B, A, 4]``, p ``[B, A, C]`` and q ``[B, A, 1 or C]``; see `CandidateGraph.forward`."""
        ...


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Runs a detector over images and turns its candidates into results."""

    folder: DataFolder
    classes: Sequence[ClassInfo]
    fusion: Fusion
    nms: NmsAttributes
    iou_threshold: float

    @torch.no_grad()
    def run(self, graph: CandidateSource, record: ImageRecord) -> ImageResult:
        """Detections and correlation samples of one image."""
        height, width = graph.size
        slot = np.empty((height, width, 3), np.uint8)
        letterbox = letterbox_into(slot, read_image(self.folder, record))
        device = graph.device
        exponents = self.fusion.exponents()
        found = graph(
            torch.from_numpy(slot).to(device)[None], torch.tensor([exponents], dtype=torch.float32, device=device)
        )
        boxes, p, q = (tensor[0].float().cpu().numpy() for tensor in found)
        kept = calibrated_nms(
            boxes,
            p,
            q,
            exponents=exponents,
            score_threshold=NO_THRESHOLD,
            iou_threshold=self.iou_threshold,
            attributes=self.nms,
        )
        candidates = select_candidates(boxes, p, q, exponents, self.nms)
        return ImageResult(
            detections=self._results(record.image_id, kept, letterbox.to_image(kept.boxes)),
            correlation=self._correlation(record, candidates, letterbox.to_image(candidates.boxes)),
        )

    def _results(self, image_id: int, kept: Detections, boxes: NDArray[Any]) -> list[dict[str, Any]]:
        return [
            {
                "image_id": image_id,
                "category_id": self.classes[label].category_id,
                "bbox": [float(value) for value in box],
                "score": float(score),
                "classification_score": float(p),
                "localization_score": float(q),
            }
            for box, label, score, p, q in zip(
                xyxy_to_xywh(boxes),
                kept.labels,
                kept.scores,
                kept.classification_scores,
                kept.localization_scores,
                strict=True,
            )
        ]

    def _correlation(self, record: ImageRecord, found: Candidates, boxes: NDArray[Any]) -> NDArray[np.float32]:
        p, q = found.classification_scores, found.localization_scores
        same = found.labels[:, None] == record.labels[None, :]
        iou = np.where(same, pairwise_iou(boxes, record.boxes), 0).max(axis=1, initial=0)
        return np.stack([p, q, fuse(p, q, self.fusion.exponents()), iou.astype(np.float32)], axis=1)


def summarise(annotations: dict[str, Any], results: Iterable[ImageResult]) -> tuple[Metrics, str]:
    """Metrics of a split, those of its own format included, and pycocotools' table."""
    results = list(results)
    detections = [detection for result in results for detection in result.detections]
    metrics, table = coco_metrics(load_ground_truth(annotations), detections)
    samples = np.concatenate([np.empty((0, 4), np.float32), *(result.correlation for result in results)])
    return {**metrics, **format_metrics(annotations, detections), **score_iou_correlations(*samples.T)}, table

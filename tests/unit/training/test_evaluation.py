"""Validation against a graph that answers with the ground truth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibox_core.fusion import Fusion, FusionName
from calibox_core.letterbox import Letterbox
from calibox_core.nms import NmsAttributes
from calibox_training.data.coco import ImageRecord, read_classes, read_records
from calibox_training.evaluation import Evaluator, summarise
from calibox_training.inference import CandidateGraph
from tests.support.coco import SIZE, make_coco_folder


class _Oracle(nn.Module):
    """Answers with the objects of one image, moved by `shift` pixels, as `CandidateGraph` would."""

    size = (192, 320)

    def __init__(self, record: ImageRecord, shift: float) -> None:
        super().__init__()
        placed = Letterbox.fit(width=SIZE[1], height=SIZE[0], input_width=320, input_height=192)
        real = ~record.crowd
        self.boxes = torch.from_numpy(placed.to_input(record.boxes[real] + np.float32(shift)))
        self.labels = torch.from_numpy(record.labels[real])
        self.register_buffer("anchors_A4", torch.zeros(0, 4))

    def forward(self, images: Tensor, fusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert images.shape == (1, *self.size, 3)
        assert fusion.shape == (1, 3)
        p = nn.functional.one_hot(self.labels, 2).float() * 0.9
        return self.boxes[None], p[None], torch.full((1, len(self.boxes), 1), 0.8)


@pytest.mark.parametrize(("shift", "perfect"), [(0.0, True), (4.0, False)])
def test_true_boxes_score_one_and_shifted_ones_less(tmp_path: Path, shift: float, perfect: bool) -> None:
    folder = make_coco_folder(tmp_path / "data", val=6)
    annotations = folder.annotations("val")
    classes = read_classes(annotations)
    evaluator = Evaluator(
        folder, classes, Fusion(name=FusionName.PRODUCT), NmsAttributes(candidate_floor=0.05), iou_threshold=1.0
    )
    results = []
    for record in read_records(annotations, classes):
        graph: CandidateGraph = _Oracle(record, shift)  # type: ignore[assignment]
        results.append(evaluator.run(graph, record))
    metrics, table = summarise(annotations, results)
    assert "Average Precision" in table
    assert metrics["AP"] is not None
    assert (metrics["AP"] == pytest.approx(1.0)) is perfect
    detections = [d for r in results for d in r.detections]
    assert metrics["pearson_n"] == len(detections)
    assert all(
        d["score"] == pytest.approx(0.72) and d["classification_score"] == pytest.approx(0.9) for d in detections
    )
    assert metrics["pearson_classification"] is None  # a constant correlates with nothing

"""Validation against a graph that answers with the ground truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibox_core.coco_metrics import Metrics
from calibox_core.fusion import Fusion, FusionName
from calibox_core.kitti import KittiFolder, KittiSplits
from calibox_core.letterbox import Letterbox
from calibox_core.nms import NmsAttributes
from calibox_core.voc import VocFolder, VocSplits
from calibox_training.data.coco import ImageRecord, read_classes, read_records
from calibox_training.evaluation import Evaluator, ImageResult, summarise
from calibox_training.inference import CandidateGraph
from tests.support.coco import SIZE, make_coco_folder
from tests.support.kitti import make_kitti
from tests.support.voc import make_voc


class _Oracle(nn.Module):
    """Answers with the objects of one image, moved by `shift` pixels, as `CandidateGraph` would."""

    size = (192, 320)
    device = torch.device("cpu")

    def __init__(self, record: ImageRecord, shift: float) -> None:
        super().__init__()
        placed = Letterbox.fit(width=SIZE[1], height=SIZE[0], input_width=320, input_height=192)
        real = ~record.crowd
        self.boxes = torch.from_numpy(placed.to_input(record.boxes[real] + np.float32(shift)))
        self.labels = torch.from_numpy(record.labels[real])

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


def _as_found(annotation: dict[str, Any], score: float) -> dict[str, Any]:
    return {**{key: annotation[key] for key in ("image_id", "category_id", "bbox")}, "score": score}


def _summarised(document: dict[str, Any], found: list[dict[str, Any]]) -> Metrics:
    return summarise(document, [ImageResult(found, np.empty((0, 4), np.float32))])[0]


def test_a_voc_document_is_measured_by_vocs_own_metric_too(tmp_path: Path) -> None:
    document = VocFolder(make_voc(tmp_path), VocSplits(classes=("car", "person"))).annotations("val")
    rows = document["annotations"]
    everything = _summarised(document, [_as_found(a, 0.9) for a in rows])
    assert everything["VOC07_AP50"] == everything["VOC12_AP50"] == everything["AP50"] == 1.0
    plain = _summarised(document, [_as_found(a, 0.9) for a in rows if not a["difficult"]])
    assert plain["VOC07_AP50"] == 1.0  # difficult persons are no misses
    cars = _summarised(document, [_as_found(a, 0.9) for a in rows if a["category_id"] == 1])
    assert cars["VOC12_AP50"] == 0.5


def test_a_kitti_document_is_measured_by_kittis_own_metric_too(tmp_path: Path) -> None:
    document = KittiFolder(make_kitti(tmp_path, images=50), KittiSplits(val_fraction=0.99)).annotations("val")
    found = [
        _as_found(a, 0.9 - n / 1000) for n, a in enumerate(document["annotations"]) if a["kitti_type"] != "DontCare"
    ]
    metrics = _summarised(document, found)
    assert metrics["KITTI_AP_R40_easy"] == pytest.approx(1.0)  # vans are no mistakes
    assert metrics["KITTI_AP_R11_hard"] == pytest.approx(1.0)
    assert metrics["AP"] == pytest.approx(1.0)


def test_a_coco_document_has_no_metric_of_its_own(tmp_path: Path) -> None:
    document = make_coco_folder(tmp_path / "data").annotations("val")
    assert not [key for key in _summarised(document, []) if key.startswith(("VOC", "KITTI"))]

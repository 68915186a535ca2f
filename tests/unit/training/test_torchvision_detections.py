"""torchvision's SSD300 and RetinaNet, saved in their own format, are reproduced to the last detection."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, ssd300_vgg16
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops.feature_pyramid_network import LastLevelP6P7
from torchvision.ops.misc import FrozenBatchNorm2d

from calibox_core.fusion import Exponents
from calibox_core.manifest import ClassInfo
from calibox_core.nms import NmsAttributes, calibrated_nms
from calibox_training.checkpoint import CheckpointError
from calibox_training.inference import CandidateGraph
from calibox_training.init_from import initialise_from
from calibox_training.model_spec import ModelSpec
from calibox_training.models.detector import Detector
from calibox_training.recipe import load_recipe

LABELS = 5  # the background and four classes
CLASSES = tuple(ClassInfo(name=f"class {i}", category_id=10 + i) for i in range(LABELS - 1))
MANY = 10**6
SSD_SPEC = load_recipe("torchvision_ssd300").model
RETINANET_SPEC = ModelSpec.model_validate(
    {
        "backbone": "resnet50",
        "backbone_norm_epsilon": 0,
        "pyramid_top": "p5",
        "anchors": {"offset": 0.0, "whole_pixels": True},
    }
)


Their = SSD | RetinaNet


def _images(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _planes(images: Tensor) -> list[Tensor]:
    return list(images.permute(0, 3, 1, 2) / 255)


@torch.no_grad()
def _their_outputs(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits, box deltas and anchors."""
    batch, _ = model.transform(_planes(images))
    maps = list(model.backbone(batch.tensors).values())
    found = model.head(maps)
    anchors = model.anchor_generator(ImageList(batch.tensors, [images.shape[1:3]] * len(images)), maps)
    return found["cls_logits"], found["bbox_regression"], anchors[0]


@pytest.fixture(scope="module")
def ssd() -> SSD:
    """Weights at random, each level's outputs of the order of 1, and most anchors background."""
    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=LABELS).eval()
    nn.init.uniform_(model.backbone.scale_weight, 10, 30)
    with torch.no_grad():
        maps = list(model.backbone(model.transform(_planes(_images(300, 300)))[0].tensors).values())
        for branch, wanted in ((model.head.classification_head, 1.5), (model.head.regression_head, 1.0)):
            for conv, level in zip(branch.module_list, maps, strict=True):
                conv.weight *= wanted / conv(level).std()
        for conv in model.head.classification_head.module_list:
            nn.init.normal_(conv.bias, std=0.1)
            conv.bias[::LABELS] += 7
    return model


@pytest.fixture(scope="module")
def retinanet() -> RetinaNet:
    """As torchvision runs its COCO_V1 weights: frozen batch norms without an epsilon, some with a small variance."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=FrozenBatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = RetinaNet(backbone, LABELS, min_size=96, max_size=128).eval()
    overwrite_eps(model, 0.0)
    norm = model.backbone.body.bn1
    norm.running_var.fill_(1e-4)
    norm.weight.fill_(1e-2)
    for module in model.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
    logits, deltas, _ = _their_outputs(model, _images(96, 128))
    with torch.no_grad():
        model.head.classification_head.cls_logits.weight /= logits.std()
        model.head.regression_head.bbox_reg.weight *= 0.2 / deltas.std()
        # Label 0, the background, is trained to be nothing's.
        model.head.classification_head.cls_logits.bias[::LABELS] = -20
    return model


def _ours(theirs: Their, spec: ModelSpec, folder: Path) -> Detector:
    torch.save(theirs.state_dict(), folder / "theirs.pth")
    detector = Detector(spec, classes=len(CLASSES)).eval()
    fresh = initialise_from(detector, folder / "theirs.pth", CLASSES)
    assert all(name.startswith("head.quality_conv") for name in fresh)
    return detector


@pytest.fixture(scope="module")
def our_ssd(ssd: SSD, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return _ours(ssd, SSD_SPEC, tmp_path_factory.mktemp("ssd"))


def _compare_detections(theirs: Their, detector: Detector, images: Tensor, floor: float, iou: float) -> None:
    """Class score, label and box of every detection, in order; the localization score takes no part."""
    theirs.score_thresh, theirs.nms_thresh, theirs.topk_candidates, theirs.detections_per_img = floor, iou, MANY, 100
    attributes = NmsAttributes(candidate_floor=floor, pre_nms_top_k=3840, max_detections=100)
    alone = Exponents(1.0, 0.0, 0.0)
    graph = CandidateGraph(detector, height=images.shape[1], width=images.shape[2], per_level_top_k=MANY)
    with torch.no_grad():
        wanted = theirs(_planes(images))
        found = graph(images, torch.tensor([alone] * len(images)))
    for image, want in enumerate(wanted):
        boxes, p, q = (tensor[image].numpy() for tensor in found)
        assert 100 < (p > floor).sum() < 3840  # neither side's limit on candidates takes part
        got = calibrated_nms(
            boxes, p, q, exponents=alone, score_threshold=0.0, iou_threshold=iou, attributes=attributes
        )
        assert len(got.scores) > 50
        assert got.labels.tolist() == (want["labels"] - 1).tolist()  # theirs count the background
        np.testing.assert_allclose(got.scores, want["scores"], atol=1e-4)
        np.testing.assert_allclose(got.boxes, want["boxes"], atol=1e-3)  # pixels, a few last places of 300


def test_ssds_outputs_are_torchvisions(ssd: SSD, our_ssd: Detector) -> None:
    images = _images(300, 300)
    logits, deltas, anchors = _their_outputs(ssd, images)
    with torch.no_grad():
        found = our_ssd(our_ssd.normalise(images))
    assert logits.std() > 0.5
    assert deltas.std() > 0.5
    assert (found.class_BAC - logits).abs().max() < 1e-4
    assert (found.box_BAV - deltas).abs().max() < 1e-4
    torch.testing.assert_close(our_ssd.anchors(300, 300).boxes_A4, anchors, rtol=0, atol=1e-4)


def test_ssds_detections_are_torchvisions(ssd: SSD, our_ssd: Detector) -> None:
    _compare_detections(ssd, our_ssd, _images(300, 300), floor=0.01, iou=0.45)


def test_retinanets_detections_are_torchvisions(retinanet: RetinaNet, tmp_path: Path) -> None:
    detector = _ours(retinanet, RETINANET_SPEC, tmp_path)
    _compare_detections(retinanet, detector, _images(96, 128), floor=0.05, iou=0.5)


@pytest.mark.parametrize(("epsilon", "same"), [(0, True), (None, False)])
def test_frozen_norms_without_an_epsilon_need_the_recipe_to_say_so(
    epsilon: float | None, same: bool, retinanet: RetinaNet, tmp_path: Path
) -> None:
    images = _images(96, 128)
    detector = _ours(retinanet, RETINANET_SPEC.model_copy(update={"backbone_norm_epsilon": epsilon}), tmp_path)
    logits, _, _ = _their_outputs(retinanet, images)
    with torch.no_grad():
        away = (detector(detector.normalise(images)).class_BAC - logits[..., 1:]).abs().max().item()
    assert (away < 1e-4) is same
    assert same or away > 1e-2


def test_rows_of_an_ssd_file_are_chosen_by_category(tmp_path: Path, ssd: SSD) -> None:
    """Of more labels than the data set has classes, the background and the category ids."""
    state = dict(ssd.state_dict())
    for level, anchors in enumerate((4, 6, 6, 6, 4, 4)):
        for value in ("weight", "bias"):
            name = f"head.classification_head.module_list.{level}.{value}"
            state[name] = (
                torch.arange(anchors * 21.0).view(-1, *[1] * (state[name].ndim - 1)).expand(-1, *state[name].shape[1:])
            )
    torch.save(state, tmp_path / "theirs.pth")
    detector = Detector(SSD_SPEC, classes=len(CLASSES))
    initialise_from(detector, tmp_path / "theirs.pth", CLASSES)
    rows = [21.0 * anchor + label for anchor in range(6) for label in (0, 10, 11, 12, 13)]
    assert detector.head.class_convs[1].bias.tolist() == rows


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (RETINANET_SPEC, "is of torchvision's SSD; the recipe's model is RetinaNet"),
        (SSD_SPEC.model_copy(update={"backbone_width": 0.25}), "should be"),
    ],
)
def test_an_ssd_file_that_does_not_fit_is_refused(tmp_path: Path, ssd: SSD, spec: ModelSpec, sentence: str) -> None:
    torch.save(ssd.state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=sentence):
        initialise_from(Detector(spec, classes=len(CLASSES)), tmp_path / "theirs.pth", CLASSES)

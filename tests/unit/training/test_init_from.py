"""torchvision's own RetinaNet, saved in its own format, is reproduced by a recipe and its weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.image_list import ImageList

from calibox_core.manifest import ClassInfo
from calibox_training.box_coder import BoxCoder
from calibox_training.checkpoint import CheckpointError
from calibox_training.init_from import initialise_from
from calibox_training.model_spec import ModelSpec
from calibox_training.models.detector import Detector

# Neither side is a multiple of 128, so torchvision's steps differ from the strides at the coarsest levels.
HEIGHT, WIDTH = 160, 224
LABELS = 5  # the background and four classes
CLASSES = tuple(ClassInfo(name=f"class {i}", category_id=10 + i) for i in range(LABELS - 1))
VERSIONS = {"v1": retinanet_resnet50_fpn, "v2": retinanet_resnet50_fpn_v2}


def _spec(version: str, **more: object) -> ModelSpec:
    values = {
        "backbone": "resnet50",
        "pyramid_top": "p5" if version == "v1" else "c5",
        "norm": "none" if version == "v1" else "group",
        "anchors": {"offset": 0.0, "whole_pixels": True},
    }
    return ModelSpec.model_validate(values | more)


def _theirs(build: Callable[..., RetinaNet], labels: int = LABELS) -> RetinaNet:
    """Weights at random, with outputs of the order of 1 so that every layer shows in them, statistics included."""
    torch.manual_seed(0)
    model = build(weights=None, weights_backbone=None, num_classes=labels).eval()
    for module in model.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.015 if module.bias is not None else 0.03)
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


@torch.no_grad()
def _their_outputs(model: RetinaNet, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits, box deltas and anchors of uint8 images ``[B, H, W, 3]``."""
    planes = images.permute(0, 3, 1, 2) / 255
    normalised = torch.stack([model.transform.normalize(image) for image in planes])
    maps = list(model.backbone(normalised).values())
    found = model.head(maps)
    anchors = model.anchor_generator(ImageList(normalised, [(HEIGHT, WIDTH)] * len(images)), maps)
    return found["cls_logits"], found["bbox_regression"], anchors[0]


@pytest.mark.parametrize("version", list(VERSIONS))
def test_the_outputs_are_torchvisions(tmp_path: Path, version: str) -> None:
    theirs = _theirs(VERSIONS[version])
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = Detector(_spec(version), classes=len(CLASSES)).eval()
    fresh = initialise_from(ours, tmp_path / "theirs.pth", CLASSES)
    assert fresh == ("head.quality_conv.weight", "head.quality_conv.bias")
    images = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    logits, deltas, anchors = _their_outputs(theirs, images)
    with torch.no_grad():
        found = ours(ours.normalise(images))
    assert logits.std() > 0.1
    assert deltas.std() > 0.1
    assert (found.class_BAC - logits[..., 1:]).abs().max() < 1e-4
    assert (found.box_BAV - deltas).abs().max() < 1e-4
    own = ours.anchors(HEIGHT, WIDTH)
    assert torch.equal(own.boxes_A4, anchors)
    boxes = BoxCoder(ours.spec.box).decode(deltas, own.boxes_A4, own.stride_A)
    wanted = torch.stack([theirs.box_coder.decode_single(rows, anchors) for rows in deltas])
    torch.testing.assert_close(boxes, wanted, rtol=1e-4, atol=1e-2)


def test_coco_labels_are_category_ids(tmp_path: Path) -> None:
    theirs = _theirs(retinanet_resnet50_fpn, labels=21)
    torch.save({"model": theirs.state_dict()}, tmp_path / "theirs.pth")
    ours = Detector(_spec("v1"), classes=4)
    initialise_from(ours, tmp_path / "theirs.pth", CLASSES)
    weight = theirs.head.classification_head.cls_logits.weight.reshape(9, 21, 256, 3, 3)
    torch.testing.assert_close(ours.head.class_conv.weight.reshape(9, 4, 256, 3, 3), weight[:, 10:14])


def test_towers_of_the_oldest_files_are_found(tmp_path: Path) -> None:
    theirs = _theirs(retinanet_resnet50_fpn)
    old = {
        name.replace("conv.1.0.", "conv.2.").replace("conv.0.0.", "conv.0.") if name.startswith("head.") else name: v
        for name, v in theirs.state_dict().items()
        if "conv.2.0" not in name and "conv.3.0" not in name
    }
    torch.save(old, tmp_path / "old.pth")
    ours = Detector(_spec("v1", tower_depth=2), classes=4)
    assert initialise_from(ours, tmp_path / "old.pth", CLASSES) == (
        "head.quality_conv.weight",
        "head.quality_conv.bias",
    )
    assert torch.equal(ours.head.box_tower[2].weight, theirs.head.regression_head.conv[1][0].weight)


@pytest.mark.parametrize(
    ("labels", "spec", "sentence"),
    [
        (8, {}, "tells 8 labels apart"),
        (LABELS, {"fpn_channels": 64}, "should be"),
        (LABELS, {"norm": "none"}, "the model has no head"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_and_changes_nothing(
    tmp_path: Path, labels: int, spec: dict[str, object], sentence: str
) -> None:
    theirs = _theirs(retinanet_resnet50_fpn_v2, labels=labels)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours = Detector(_spec("v2", **spec), classes=len(CLASSES))
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(CheckpointError, match=sentence):
        initialise_from(ours, tmp_path / "theirs.pth", CLASSES)
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    ours = Detector(ModelSpec(backbone="mobilenet_v3_large", fpn_channels=16), classes=2)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        initialise_from(ours, tmp_path / "other.pth", CLASSES)
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        initialise_from(ours, tmp_path / "broken.pth", CLASSES)

"""torchvision's weights in our two-stage detectors: proposals, logits, boxes and detections are torchvision's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor

from calibox_core.fusion import Exponents
from calibox_core.manifest import ClassInfo
from calibox_core.nms import NmsAttributes, OutScore, calibrated_nms
from calibox_training.checkpoint import CheckpointError
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.rcnn.evaluation import RcnnCandidates
from calibox_training.rcnn.torchvision_names import initialise_rcnn
from tests.support.two_stage import tiny_rcnn

SIZE = (96, 128)
CLASSES = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))
SIZES = (16, 24, 32, 48, 64)
WIDE = {"model__backbone_width": 1.0, "model__fpn_channels": 256, "model__box_head_width": 1024}


def _torchvision(kind: type[FasterRCNN] = FasterRCNN, labels: int = 3) -> FasterRCNN:
    """A detector that never saw a file, with statistics and class layers that tell places apart."""
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5, norm_layer=nn.BatchNorm2d)
    anchors = AnchorGenerator(tuple((size,) for size in SIZES), ((0.5, 1.0, 2.0),) * 5)
    counts = {f"rpn_{when}_nms_top_n_test": count for when, count in (("pre", 100), ("post", 50))}
    model = kind(body, labels, min_size=SIZE[0], max_size=SIZE[1], rpn_anchor_generator=anchors, **counts)
    for name, value in model.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(std=0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("cls_score.weight", "bbox_pred.weight", "cls_logits.weight")):
            value.normal_(std=0.1)
    return model.eval()


def _saved(model: nn.Module, path: Path) -> Path:
    torch.save(model.state_dict(), path)
    return path


def _images(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, *SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def _planes(images: Tensor) -> list[Tensor]:
    return list(images.permute(0, 3, 1, 2).float() / 255)


@torch.no_grad()
def test_proposals_logits_and_boxes_are_torchvisions(tmp_path: Path) -> None:
    theirs, ours = _torchvision(), RcnnDetector(tiny_rcnn(**WIDE).model, classes=2)
    fresh = initialise_rcnn(ours, _saved(theirs, tmp_path / "faster.pth"), CLASSES)
    assert {name.split(".")[0] for name in fresh} == {"predictor"}
    images, heads = _images(), theirs.roi_heads
    placed, _ = theirs.transform(_planes(images))
    maps = theirs.backbone(placed.tensors)
    proposals, _ = theirs.rpn(placed, maps)
    assert all(len(boxes) == 50 for boxes in proposals)
    shapes = placed.image_sizes
    logits, codes = heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, proposals, shapes)))
    boxes = heads.box_coder.decode(codes, proposals)[:, 1:]
    boxes = torch.stack([boxes[..., 0::2].clamp(0, SIZE[1]), boxes[..., 1::2].clamp(0, SIZE[0])], dim=-1).flatten(-2)
    pyramid = ours.eval().pyramid(images)
    for name, level in zip(maps, pyramid.values(), strict=True):
        torch.testing.assert_close(level, maps[name], rtol=1e-4, atol=1e-4)
    scored = ours.roi_heads.scored(pyramid, proposals, SIZE)
    torch.testing.assert_close(scored.p_RC, logits.softmax(dim=1)[:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scored.boxes_RC4, boxes, rtol=1e-4, atol=1e-2)
    found = ours.candidates(pyramid, images)
    all_boxes, all_p = scored
    kept = all_p > 0.05
    torch.testing.assert_close(found.p_R, all_p[kept], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.boxes_R4, all_boxes[kept], rtol=1e-3, atol=1e-2)
    assert found.image_R.unique().tolist() == [0, 1]


@torch.no_grad()
def test_standard_nms_gives_torchvisions_detections(tmp_path: Path) -> None:
    theirs, ours = _torchvision(), RcnnDetector(tiny_rcnn(branch=False, **WIDE).model, classes=2)
    assert initialise_rcnn(ours, _saved(theirs, tmp_path / "faster.pth"), CLASSES) == ()
    images = _images(1)
    (expected,) = theirs(_planes(images))
    assert len(expected["boxes"]) > 10
    source = RcnnCandidates(ours.eval(), SIZE)
    boxes, p, q = (value[0].numpy() for value in source(images, torch.tensor([[1.0, 0, 0]])))
    found = calibrated_nms(
        boxes,
        p,
        q,
        exponents=Exponents(1, 0, 0),
        score_threshold=0,
        iou_threshold=0.5,
        attributes=NmsAttributes(candidate_floor=0.05, out_score=OutScore.CLASSIFICATION),
    )
    np.testing.assert_array_equal(found.labels + 1, expected["labels"].numpy())
    np.testing.assert_allclose(found.scores, expected["scores"].numpy(), atol=3e-4)
    np.testing.assert_allclose(found.boxes, expected["boxes"].numpy(), atol=1e-2)


def test_other_classes_leave_their_layers_at_random_and_category_ids_choose_rows(tmp_path: Path) -> None:
    path = _saved(_torchvision(labels=5), tmp_path / "four-classes.pth")
    ours = RcnnDetector(tiny_rcnn(branch=False, **WIDE).model, classes=2)
    fresh = initialise_rcnn(ours, path, CLASSES)
    assert {name.rsplit(".", 1)[0] for name in fresh} == {
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    }
    theirs = _torchvision(labels=5)
    by_id = (ClassInfo(name="a", category_id=2), ClassInfo(name="b", category_id=4))
    assert initialise_rcnn(ours, path, by_id) == ()
    state, wanted = ours.state_dict(), theirs.state_dict()
    rows = [0, 2, 4]
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(state[name], wanted[name][rows])
    name = "roi_heads.box_predictor.bbox_pred.weight"
    assert torch.equal(state[name].view(3, 4, -1), wanted[name].view(5, 4, -1)[rows])


def test_files_of_before_torchvisions_blocks_are_read(tmp_path: Path) -> None:
    state = _torchvision().state_dict()
    old = {
        name.replace("_blocks.0.0.", "_blocks.0.").replace("rpn.head.conv.0.0.", "rpn.head.conv."): value
        for name, value in state.items()
    }
    assert old.keys() != state.keys()
    torch.save({"model": old}, tmp_path / "old.pth")
    ours = RcnnDetector(tiny_rcnn(branch=False, **WIDE).model, classes=2)
    assert initialise_rcnn(ours, tmp_path / "old.pth", CLASSES) == ()
    assert torch.equal(ours.state_dict()["rpn.head.conv.0.0.weight"], state["rpn.head.conv.0.0.weight"])


def test_a_file_of_something_else_is_a_sentence(tmp_path: Path) -> None:
    _saved(nn.Linear(2, 2), tmp_path / "other.pth")
    ours = RcnnDetector(tiny_rcnn(branch=False).model, classes=2)
    with pytest.raises(CheckpointError, match=r"neither a checkpoint .* nor the state dict of torchvision's Faster"):
        initialise_rcnn(ours, tmp_path / "other.pth", CLASSES)
    with pytest.raises(CheckpointError, match="does not fit the recipe's model: backbone"):
        initialise_rcnn(ours, _saved(_torchvision(), tmp_path / "wide.pth"), CLASSES)


@torch.no_grad()
def test_masks_are_torchvisions(tmp_path: Path) -> None:
    theirs = _torchvision(MaskRCNN)
    theirs.roi_heads.mask_predictor = MaskRCNNPredictor(256, 256, 3)
    recipe = tiny_rcnn("mask", branch=False, **WIDE, model__mask_channels=256)
    ours = RcnnDetector(recipe.model, classes=2)
    assert initialise_rcnn(ours, _saved(theirs, tmp_path / "mask.pth"), CLASSES) == ()
    images = _images(1)
    (expected,) = theirs(_planes(images))
    pyramid = ours.eval().pyramid(images)
    masks = ours.roi_heads.masks(pyramid, [expected["boxes"]], expected["labels"] - 1, SIZE)
    assert masks.shape == (len(expected["boxes"]), *SIZE)
    torch.testing.assert_close(masks, expected["masks"][:, 0], rtol=1e-3, atol=1e-4)

import math

import pytest
import torch

from calibox_training.anchors import AnchorSet
from calibox_training.box_coder import encode_boxes
from calibox_training.criterion import Criterion
from calibox_training.losses import focal_loss, iou_bce_loss, iou_l2_loss, smooth_l1_loss
from calibox_training.models.detector import Detector
from calibox_training.models.heads import HeadOutput
from calibox_training.objects import Objects
from tests.support.recipes import tiny_recipe

CASES = [(-8.0, 0.0), (-1.0, 1.0), (0.0, 0.3), (0.5, 0.9), (9.0, 1.0), (30.0, 0.0)]


@pytest.mark.parametrize(("logit", "target"), [(x, y) for x, y in CASES if y in (0.0, 1.0)])
def test_focal_loss_equals_the_formula_in_float64(logit: float, target: float) -> None:
    p = 1 / (1 + math.exp(-logit))
    p_t = p if target else 1 - p
    log_p_t = -math.log1p(math.exp(-logit)) if target else -math.log1p(math.exp(logit))
    expected = -(0.25 if target else 0.75) * (1 - p_t) ** 2 * log_p_t
    found = focal_loss(torch.tensor([logit]), torch.tensor([target]), alpha=0.25, gamma=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(("x", "expected"), [(0.0, 0.0), (0.05, 0.05**2 / 0.22), (0.11, 0.055), (1.0, 1 - 0.055)])
def test_smooth_l1_is_quadratic_below_beta_and_linear_above(x: float, expected: float) -> None:
    found = smooth_l1_loss(torch.tensor([x]), torch.tensor([0.0]), beta=0.11)
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("logit", "iou"), CASES)
def test_iou_losses_equal_their_formulas(logit: float, iou: float) -> None:
    q = 1 / (1 + math.exp(-logit))
    bce = max(logit, 0) - logit * iou + math.log1p(math.exp(-abs(logit)))
    assert iou_bce_loss(torch.tensor(logit), torch.tensor(iou)).item() == pytest.approx(bce, rel=1e-5, abs=1e-6)
    assert iou_l2_loss(torch.tensor(logit), torch.tensor(iou)).item() == pytest.approx((q - iou) ** 2, abs=1e-6)


def test_the_gradient_of_the_iou_loss_at_its_target_is_minus_the_logit() -> None:
    iou = torch.tensor(0.7, requires_grad=True)
    iou_bce_loss(torch.tensor(1.3), iou).backward()
    assert iou.grad is not None
    assert iou.grad.item() == pytest.approx(-1.3, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_extremes_are_finite_float32(dtype: torch.dtype) -> None:
    logits, target = torch.tensor([-60.0, 60.0], dtype=dtype), torch.tensor([1.0, 0.0], dtype=dtype)
    for loss in (focal_loss(logits, target, alpha=0.25, gamma=2.0), iou_bce_loss(logits, target)):
        assert loss.dtype == torch.float32
        assert loss.isfinite().all()


ANCHORS = AnchorSet(
    torch.tensor([[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 70.0, 70.0], [100.0, 0.0, 110.0, 10.0]]),
    torch.full((3,), 8.0),
    (3,),
)
OBJECTS = Objects(
    torch.tensor([[[1.0, 0.0, 21.0, 20.0], [40.0, 42.0, 70.0, 70.0]]]),
    torch.tensor([[1, 0]]),
    torch.zeros(1, 2, dtype=torch.bool),
)


def _criterion(**overrides: object) -> Criterion:
    recipe = tiny_recipe(**overrides)
    return Criterion(recipe.model, recipe.loss)


def _output() -> HeadOutput:
    generator = torch.Generator().manual_seed(0)
    return HeadOutput(
        torch.randn(1, 3, 2, generator=generator).requires_grad_(),
        (torch.randn(1, 3, 4, generator=generator) * 0.1).requires_grad_(),
        torch.randn(1, 3, 1, generator=generator).requires_grad_(),
    )


def test_losses_are_sums_over_positives_divided_by_their_number() -> None:
    found = _output()
    losses = _criterion()(found, ANCHORS, OBJECTS)
    targets = encode_boxes(OBJECTS.boxes_BG4[0], ANCHORS.boxes_A4[:2])
    box = smooth_l1_loss(found.box_BAV[0, :2], targets, beta=0.11).sum() / 2
    labels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    classification = focal_loss(found.class_BAC[0], labels, alpha=0.25, gamma=2.0).sum() / 2
    torch.testing.assert_close(losses.box, box)
    torch.testing.assert_close(losses.classification, classification)
    torch.testing.assert_close(losses.total, losses.box + losses.classification + losses.quality)


@pytest.mark.parametrize("detach", [True, False])
def test_the_iou_loss_moves_boxes_only_when_its_target_is_not_detached(detach: bool) -> None:
    found = _output()
    _criterion(model__quality__detach_target=detach)(found, ANCHORS, OBJECTS).quality.backward()
    assert found.class_BAC.grad is None
    assert found.quality_BAQ.grad is not None
    assert (found.quality_BAQ.grad[0, :2] != 0).all()
    assert (found.quality_BAQ.grad[0, 2] == 0).all()  # background teaches nothing
    moved = found.box_BAV.grad is not None and bool((found.box_BAV.grad[0, :2] != 0).any())
    assert moved is not detach


@pytest.mark.parametrize("detach", [True, False])
def test_gradient_contract_of_the_iou_loss_on_a_whole_detector(detach: bool) -> None:
    recipe = tiny_recipe(model__quality__detach_target=detach)
    detector = Detector(recipe.model, classes=2)
    images = torch.randint(0, 255, (2, 96, 128, 3), dtype=torch.uint8)
    boxes = torch.tensor([[[10.0, 10.0, 50.0, 50.0]], [[40.0, 20.0, 100.0, 80.0]]])
    objects = Objects(boxes, torch.tensor([[0], [1]]), torch.zeros(2, 1, dtype=torch.bool))
    found = detector(detector.normalise(images))
    losses = Criterion(recipe.model, recipe.loss)(found, detector.anchors(96, 128), objects)
    losses.quality.backward()

    def reached(module: torch.nn.Module) -> bool:
        return any(p.grad is not None and bool((p.grad != 0).any()) for p in module.parameters())

    assert reached(detector.head.quality_conv)
    assert reached(detector.head.box_tower)
    assert reached(detector.fpn)
    assert reached(detector.head.box_conv) is not detach
    assert not reached(detector.head.class_tower)
    assert not reached(detector.head.class_conv)


def test_a_batch_without_objects_has_finite_losses_and_only_background_teaches() -> None:
    nothing = Objects(torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.bool))
    found = _output()
    losses = _criterion()(found, ANCHORS, nothing)
    losses.total.backward()
    assert losses.box.item() == 0.0
    assert losses.quality.item() == 0.0
    assert losses.classification.item() > 0
    assert losses.total.isfinite()

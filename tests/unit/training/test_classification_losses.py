"""Losses that learn soft labels, each against its formula in float64 from probabilities."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from calibox_training.losses import (
    LARGEST_LOG_SCORE,
    ScoreLogs,
    distribution_focal_loss,
    giou_loss,
    iou_aware_bce_loss,
    matchability_aware_loss,
    quality_focal_loss,
    score_logs,
    varifocal_loss,
)

LOGITS = [-9.0, -2.0, 0.0, 0.7, 3.0, 8.0]
TARGETS = [0.0, 0.2, 0.6, 0.95]
CASES = [(c, q, y) for c in LOGITS for q in (-3.0, 0.0, 4.0) for y in TARGETS]


def _r(logit: float, quality: float, alpha: float) -> float:
    return 1 / (1 + math.exp(-logit)) * (1 / (1 + math.exp(-quality))) ** alpha


def _bce(r: float, y: float) -> float:
    return -(y * math.log(r) + (1 - y) * math.log(1 - r))


def _qfl(r: float, y: float) -> float:
    return abs(r - y) ** 2 * _bce(r, y)


def _vfl(r: float, y: float) -> float:
    return y * _bce(r, y) if y > 0 else 0.75 * r**2 * _bce(r, 0)


def _mal(r: float, y: float) -> float:
    return _bce(r, y**1.5) if y > 0 else r**1.5 * _bce(r, 0)


def _ia_bce(r: float, y: float) -> float:
    return _bce(r, max(0.01, r**0.25 * y**0.75)) if y > 0 else r**2 * _bce(r, 0)


Elements = Callable[[ScoreLogs, Tensor], Tensor]
LOSSES: dict[str, tuple[Elements, Callable[[float, float], float]]] = {
    "qfl": (lambda score, y: quality_focal_loss(score, y, beta=2.0), _qfl),
    "vfl": (varifocal_loss, _vfl),
    "mal": (lambda score, y: matchability_aware_loss(score, y, y > 0), _mal),
    "ia_bce": (lambda score, y: iou_aware_bce_loss(score, y, y > 0), _ia_bce),
}


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_equals_its_formula_in_float64(name: str, alpha: float) -> None:
    elements, formula = LOSSES[name]
    classes, qualities, targets = (torch.tensor(column) for column in zip(*CASES, strict=True))
    found = elements(score_logs(classes, qualities, alpha=alpha), targets)
    expected = [formula(_r(c, q, alpha), y) for c, q, y in CASES]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-4, atol=1e-7)


def test_quality_focal_loss_is_zero_where_score_and_target_agree() -> None:
    score = score_logs(torch.tensor([0.4]), torch.tensor([1.1]), alpha=0.3)
    torch.testing.assert_close(quality_focal_loss(score, score.yes.exp(), beta=2.0), torch.zeros(1))


def test_a_positive_of_iou_zero_teaches_as_a_positive() -> None:
    score, nothing, yes = ScoreLogs(torch.tensor([-1.0]), torch.tensor([-0.4587])), torch.zeros(1), torch.tensor([True])
    assert matchability_aware_loss(score, nothing, yes).item() == pytest.approx(0.4587)  # weight 1, not r^gamma
    expected = -(0.01 * -1.0 + 0.99 * -0.4587)  # the smallest target
    assert iou_aware_bce_loss(score, nothing, yes).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_in_halves_have_finite_losses_and_gradients(name: str, alpha: float, dtype: torch.dtype) -> None:
    extremes = torch.tensor([-60.0, -30.0, 0.0, 30.0, 60.0], dtype=dtype)
    classes, qualities, targets = torch.cartesian_prod(extremes, extremes, torch.tensor([0.0, 0.5, 1.0], dtype=dtype)).T
    classes, qualities = classes.clone().requires_grad_(), qualities.clone().requires_grad_()
    loss = LOSSES[name][0](score_logs(classes, qualities, alpha=alpha), targets.float())
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    loss.sum().backward()
    assert classes.grad is not None
    assert classes.grad.isfinite().all()
    if alpha:
        assert qualities.grad is not None
        assert qualities.grad.isfinite().all()


@pytest.mark.parametrize("target", [0.0, 0.6])
def test_the_joint_score_teaches_both_branches(target: float) -> None:
    classes, qualities = torch.tensor([0.3], requires_grad=True), torch.tensor([-0.2], requires_grad=True)
    quality_focal_loss(score_logs(classes, qualities, alpha=0.3), torch.tensor([target]), beta=2.0).sum().backward()
    assert classes.grad is not None
    assert qualities.grad is not None
    r = _r(0.3, -0.2, 0.3)
    slope = 2 * abs(r - target) * math.copysign(1, r - target) * _bce(r, target)
    slope += (r - target) ** 2 * (r - target) / (r * (1 - r))
    p, q = _r(0.3, 0.0, 0.0), _r(-0.2, 0.0, 0.0)
    assert classes.grad.item() == pytest.approx(slope * r * (1 - p), rel=1e-4)
    assert qualities.grad.item() == pytest.approx(slope * r * 0.3 * (1 - q), rel=1e-4)


def _float64_logs(classes: Tensor, qualities: Tensor) -> ScoreLogs:
    """`score_logs` without its cast to float32, so that differences can be taken."""
    joint = torch.nn.functional.logsigmoid(classes) + 0.3 * torch.nn.functional.logsigmoid(qualities)
    return ScoreLogs(joint, (-joint.exp()).log1p())


@pytest.mark.parametrize("name", ["qfl", "vfl"])
def test_gradients_equal_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(12, generator=generator, dtype=torch.float64)
    targets[:4] = 0
    assert torch.autograd.gradcheck(lambda x: LOSSES[name][0](_float64_logs(x[0], x[1]), targets), logits)


def test_joint_scores_keep_both_logarithms_exact() -> None:
    classes = torch.tensor([-80.0, -20.0, 0.0, 5.0, 12.0])
    found = score_logs(classes, torch.full_like(classes, 1.5), alpha=0.3)
    exact = torch.nn.functional.logsigmoid(classes.double()) + 0.3 * torch.nn.functional.logsigmoid(
        torch.tensor(1.5, dtype=torch.float64)
    )
    torch.testing.assert_close(found.yes.double(), exact, rtol=1e-6, atol=0)
    rest = torch.where(exact > -0.7, (-exact.expm1()).log(), (-exact.exp()).log1p())
    torch.testing.assert_close(found.no.double(), rest, rtol=1e-5, atol=0)
    assert score_logs(torch.tensor(90.0), torch.tensor(90.0), alpha=0.3).yes.item() == pytest.approx(LARGEST_LOG_SCORE)


def _dfl(logits: list[float], target: float) -> float:
    total = math.log(sum(math.exp(x) for x in logits))
    low = int(target)
    return -((low + 1 - target) * (logits[low] - total) + (target - low) * (logits[low + 1] - total))


@pytest.mark.parametrize("target", [0.0, 0.25, 1.0, 2.9])
def test_distribution_focal_loss_equals_the_formula_and_its_differences(target: float) -> None:
    logits = [0.3, -1.0, 2.0, 0.5]
    found = distribution_focal_loss(torch.tensor([logits]), torch.tensor([target]))
    assert found.item() == pytest.approx(_dfl(logits, target), rel=1e-5)
    slope = torch.tensor([logits], requires_grad=True)
    distribution_focal_loss(slope, torch.tensor([target])).sum().backward()
    assert slope.grad is not None
    for bin_ in range(4):
        up, down = ([x + step * (i == bin_) for i, x in enumerate(logits)] for step in (1e-5, -1e-5))
        difference = (_dfl(up, target) - _dfl(down, target)) / 2e-5
        assert slope.grad[0, bin_].item() == pytest.approx(difference, abs=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_distribution_focal_loss_of_halves_is_finite(dtype: torch.dtype) -> None:
    logits = torch.tensor([[-60.0, 60.0, 0.0]], dtype=dtype)
    loss = distribution_focal_loss(logits, torch.tensor([0.5]))
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()


def test_giou_loss_by_hand() -> None:
    """Unit squares one apart: union 2, hull 3, so GIoU = 0 - 1/3; equal squares lose nothing."""
    one = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(giou_loss(one, one), torch.zeros(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(giou_loss(one, one + torch.tensor([2.0, 0.0, 2.0, 0.0])), torch.tensor([4 / 3]))

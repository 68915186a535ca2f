"""IoU-Net's predictor and its loss."""

import pytest
import torch

from calibox_training.iou_net.predictor import IouPredictor, output_of_class, predicted_iou, predictor_loss
from calibox_training.iou_net.spec import PredictorSpec


def test_layers_are_those_of_the_paper() -> None:
    network = IouPredictor(PredictorSpec(), features=256, classes=80)
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(1024, 12544), (1024,), (1024, 1024), (1024,), (80, 1024), (80,)]
    deviations = [float(p.detach().std()) for p in network.parameters() if p.ndim == 2]
    assert deviations == pytest.approx([0.01, 0.01, 0.001], rel=0.02)  # over 80 000 draws at least
    assert all(float(p.detach().abs().max()) == 0 for p in network.parameters() if p.ndim == 1)


def test_a_narrow_network_can_start_with_a_signal() -> None:
    torch.manual_seed(0)
    pooled = torch.randn(50, 16, 3, 3)
    heard = {
        kind: float(IouPredictor(PredictorSpec(width=32, pooled=3, initialisation=kind), features=16, classes=2)
        .hidden(pooled).detach().std())
        for kind in ("gaussian", "he")
    }  # fmt: skip
    assert heard["gaussian"] < 0.01 < 0.3 < heard["he"]


def test_the_output_is_linear_and_its_iou_is_not() -> None:
    assert predicted_iou(torch.tensor([-1.5, -1, 0, 0.5, 1, 7])).tolist() == [0, 0, 0.5, 0.75, 1, 1]


def test_loss_by_hand() -> None:
    output = torch.tensor([[0.5, 9.0], [9.0, -2.0]])
    # Targets 2 * 0.75 - 1 = 0.5 and 2 * 0.6 - 1 = 0.2: errors 0 and 2.2, smooth L1 0 and 2.2 - 1/2; mean 0.85, times 5.
    loss = predictor_loss(output, torch.tensor([0, 1]), torch.tensor([0.75, 0.6]), weight=5.0)
    assert float(loss) == pytest.approx(4.25)


def test_only_the_output_of_the_class_is_taught() -> None:
    output = torch.zeros(3, 4, requires_grad=True)
    label = torch.tensor([2, 0, 2])
    predictor_loss(output, label, torch.tensor([0.9, 0.6, 0.7]), weight=1.0).backward()
    assert output.grad is not None
    assert [row.nonzero().flatten().tolist() for row in output.grad] == [[2], [0], [2]]
    assert output_of_class(output, label).shape == (3,)


def test_no_boxes_no_loss_but_a_gradient() -> None:
    network = IouPredictor(PredictorSpec(width=8, pooled=2), features=3, classes=2)
    output = network(torch.zeros(0, 3, 2, 2))
    loss = predictor_loss(output, torch.zeros(0, dtype=torch.long), torch.zeros(0), weight=5.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and float(p.grad.abs().sum()) == 0 for p in network.parameters())

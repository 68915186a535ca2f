"""Refinement: Algorithm 2 as the paper writes it, and what this project adds to it."""

import pytest
import torch
from torch import Tensor

from calibox_training.box_coder import aligned_iou
from calibox_training.iou_net.refinement import refine, refinement_steps
from calibox_training.iou_net.spec import RefinementSpec
from tests.support.refinement import SIZE, bumpy_score, loop_algorithm_2

COUNT = 12


def start_boxes(seed: int = 0) -> Tensor:
    """Boxes well inside the image."""
    generator = torch.Generator().manual_seed(seed)
    corner = 20 + torch.rand(COUNT, 2, generator=generator) * 20
    return torch.cat([corner, corner + 15 + torch.rand(COUNT, 2, generator=generator) * 20], dim=1)


def sizes(count: int = COUNT) -> Tensor:
    return torch.tensor([SIZE]).expand(count, 2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_algorithm_2_written_out(seed: int) -> None:
    score, boxes = bumpy_score(COUNT, seed=seed), start_boxes(seed)
    spec = RefinementSpec(early_stop=0.002, keep_worse=True)
    found = refine(score, boxes, sizes(), spec)
    wanted, tried = loop_algorithm_2(score, boxes, steps=5, step_size=0.5, early_stop=0.002, tolerance=-0.01)
    torch.testing.assert_close(found.boxes_R4, wanted, rtol=1e-4, atol=1e-3)
    assert found.steps_R.tolist() == tried
    assert len(set(tried)) > 1  # some stopped before others
    torch.testing.assert_close(found.output_R, score(wanted, torch.arange(COUNT)), rtol=1e-3, atol=1e-3)


def test_one_step_by_hand() -> None:
    """Output 0.01 x1 - 0.02 y2: slopes 0.01 and -0.02, scaled by the width 40 and the height 30, times lambda 0.5."""

    def score(boxes: Tensor, rows: Tensor) -> Tensor:
        return 0.01 * boxes[:, 0] - 0.02 * boxes[:, 3]

    found = refine(score, torch.tensor([[10.0, 20, 50, 50]]), sizes(1), RefinementSpec(steps=1))
    torch.testing.assert_close(found.boxes_R4, torch.tensor([[10.2, 20, 50, 49.7]]))
    assert found.steps_R.tolist() == [1]


def test_boxes_climb_to_the_object() -> None:
    target = torch.tensor([[30.0, 30, 70, 60]])

    def score(boxes: Tensor, rows: Tensor) -> Tensor:
        return 2 * aligned_iou(boxes, target) - 1

    boxes = torch.tensor([[26.0, 32, 66, 64]])
    found = refine(score, boxes, sizes(1), RefinementSpec(steps=20))
    # At lambda 0.5 an edge moves by about half a side's share of its error: a pixel or less per step here.
    assert float(aligned_iou(boxes, target)) < 0.77
    assert float(aligned_iou(found.boxes_R4, target)) > 0.95


def falling(boxes: Tensor, rows: Tensor) -> Tensor:
    """Slope 0.1 by x2 up to x2 = 50, then a cliff."""
    return torch.where(boxes[:, 2] <= 50, 0.1 * boxes[:, 2], 5 - 0.5 * (boxes[:, 2] - 50))


def test_a_box_that_got_worse_goes_back_unless_the_paper_is_wanted() -> None:
    # Width 20, slope 0.1, lambda 0.5: x2 moves by 1, from 48.9 to 49.9 and on to 50.95, which is worse by 0.46.
    boxes = torch.tensor([[28.9, 10, 48.9, 30]])
    ours = refine(falling, boxes, sizes(1), RefinementSpec())
    paper = refine(falling, boxes, sizes(1), RefinementSpec(keep_worse=True))
    assert float(ours.boxes_R4[0, 2]) == pytest.approx(49.9, abs=1e-4)
    assert float(paper.boxes_R4[0, 2]) == pytest.approx(50.95, abs=1e-4)
    assert ours.steps_R.tolist() == paper.steps_R.tolist() == [2]


def test_a_small_change_ends_the_steps_of_that_box_alone() -> None:
    def score(boxes: Tensor, rows: Tensor) -> Tensor:
        return torch.where(rows == 0, 1e-4, 0.05) * boxes[:, 2]

    boxes = torch.tensor([[10.0, 10, 30, 30], [10, 10, 30, 30]])
    # Box 0 gains 1e-4 * (0.5 * 1e-4 * 20) / 2 in its first step.
    assert refine(score, boxes, sizes(2), RefinementSpec()).steps_R.tolist() == [1, 5]


def test_no_steps_leave_the_boxes_alone() -> None:
    found = refine(bumpy_score(COUNT, seed=0), start_boxes(), sizes(), RefinementSpec(steps=0))
    torch.testing.assert_close(found.boxes_R4, start_boxes(), rtol=0, atol=0)


def test_weights_and_maps_get_no_gradient() -> None:
    score = bumpy_score(COUNT, seed=0)
    pixels = score.maps.pixels_MF.requires_grad_()
    found = refine(score, start_boxes(), sizes(), RefinementSpec())
    assert all(p.grad is None for p in score.predictor.parameters())
    assert all(p.requires_grad for p in score.predictor.parameters())
    assert pixels.grad is None
    assert not found.boxes_R4.requires_grad
    assert not found.output_R.requires_grad


def test_works_where_gradients_are_off() -> None:
    with torch.no_grad():
        off = refine(bumpy_score(COUNT, seed=0), start_boxes(), sizes(), RefinementSpec())
    on = refine(bumpy_score(COUNT, seed=0), start_boxes(), sizes(), RefinementSpec())
    torch.testing.assert_close(off.boxes_R4, on.boxes_R4, rtol=0, atol=0)
    assert (off.steps_R > 0).all()


@pytest.mark.parametrize("keep_worse", [False, True])
def test_each_step_on_the_way_is_where_fewer_steps_would_have_ended(keep_worse: bool) -> None:
    score = bumpy_score(6, seed=3)
    boxes = torch.tensor([[10.0, 10, 60, 60], [30, 20, 120, 90], [20, 20, 50, 80]] * 2)
    sizes = torch.tensor([SIZE]).expand(6, 2)
    spec = RefinementSpec(steps=4, step_size=0.5, keep_worse=keep_worse)
    way = list(refinement_steps(score, boxes, sizes, spec))
    assert len(way) == 5
    for steps, found in enumerate(way):
        alone = refine(score, boxes, sizes, spec.model_copy(update={"steps": steps}))
        for ours, theirs in zip(found, alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert not torch.equal(way[0].boxes_R4, way[-1].boxes_R4)

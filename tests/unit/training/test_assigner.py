"""The vectorised assigner against the rules written out in plain Python."""

import pytest
import torch
from torch import Tensor

from calibox_core.boxes import intersection_area, pairwise_iou
from calibox_training.assigner import BACKGROUND, CROWD_OVERLAP, IGNORED, MaxIouAssigner
from calibox_training.recipe import AssignerSpec

SPEC = AssignerSpec(positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0)


def _assign_in_a_loop(anchors: Tensor, boxes: Tensor, real: list[bool], crowd: list[bool]) -> list[int]:
    iou = pairwise_iou(boxes.numpy(), anchors.numpy())
    inside = intersection_area(boxes.numpy(), anchors.numpy())
    answers = []
    for a in range(len(anchors)):
        best, owner = 0.0, None
        for g in range(len(boxes)):
            if real[g] and iou[g, a] > best:
                best, owner = float(iou[g, a]), g
        x1, y1, x2, y2 = anchors[a].tolist()
        in_crowd = any(crowd[g] and inside[g, a] / ((x2 - x1) * (y2 - y1)) > CROWD_OVERLAP for g in range(len(boxes)))
        answer = BACKGROUND if best < 0.4 else IGNORED
        if in_crowd:
            answer = IGNORED
        if best >= 0.5 and owner is not None:
            answer = owner
        answers.append(answer)
    for g in range(len(boxes)):  # later objects win a contested anchor
        top = max((float(iou[g, a]) for a in range(len(anchors))), default=0.0)
        if real[g] and top > 0:
            for a in range(len(anchors)):
                if float(iou[g, a]) == top:
                    answers[a] = g
    return answers


def _random_boxes(generator: torch.Generator, count: int) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 40], dim=1)


@pytest.mark.parametrize("objects", [0, 1, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_assignment_agrees_with_a_loop(objects: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    anchors = _random_boxes(generator, 200)
    boxes = _random_boxes(generator, objects)
    crowd = torch.rand(objects, generator=generator) < 0.3
    real = ~crowd & (torch.rand(objects, generator=generator) < 0.9)
    found = MaxIouAssigner(SPEC)(anchors, boxes[None], real[None], crowd[None])
    assert found.object_BA[0].tolist() == _assign_in_a_loop(anchors, boxes, real.tolist(), crowd.tolist())


def test_an_image_in_a_padded_batch_is_assigned_as_it_is_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    anchors, boxes = _random_boxes(generator, 100), _random_boxes(generator, 3)
    alone = MaxIouAssigner(SPEC)(anchors, boxes[None], torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3).bool())
    padded = torch.zeros(2, 6, 4)
    padded[1, :3] = boxes
    real = torch.zeros(2, 6, dtype=torch.bool)
    real[1, :3] = True
    both = MaxIouAssigner(SPEC)(anchors, padded, real, torch.zeros(2, 6).bool())
    assert both.object_BA[1].tolist() == alone.object_BA[0].tolist()
    assert (both.object_BA[0] == BACKGROUND).all()
    torch.testing.assert_close(both.iou_BA[1], alone.iou_BA[0])


def test_every_object_gets_an_anchor_however_small_its_overlap() -> None:
    anchors = torch.tensor([[0.0, 0.0, 100.0, 100.0], [200.0, 200.0, 300.0, 300.0]])
    tiny = torch.tensor([[[10.0, 10.0, 12.0, 12.0]]])
    found = MaxIouAssigner(SPEC)(anchors, tiny, torch.ones(1, 1).bool(), torch.zeros(1, 1).bool())
    assert found.object_BA.tolist() == [[0, BACKGROUND]]

"""The vectorised assigner against the rules written out in plain Python."""

import statistics

import pytest
import torch
from torch import Tensor

from calibox_core.boxes import intersection_area, pairwise_iou
from calibox_training.anchor_spec import AnchorSpec
from calibox_training.anchors import AnchorGrid, AnchorSet
from calibox_training.assigner import (
    BACKGROUND,
    CENTRE_MARGIN,
    CROWD_OVERLAP,
    IGNORED,
    AtssAssigner,
    MaxIouAssigner,
    build_assigner,
)
from calibox_training.model_spec import AssignerSpec

SPEC = AssignerSpec(positive_iou=0.5, negative_iou=0.4, min_positive_iou=0.0)


def _one_level(anchors: Tensor) -> AnchorSet:
    return AnchorSet(anchors, torch.full((len(anchors),), 8.0), (len(anchors),))


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
    found = MaxIouAssigner(SPEC)(_one_level(anchors), boxes[None], real[None], crowd[None])
    assert found.object_BA[0].tolist() == _assign_in_a_loop(anchors, boxes, real.tolist(), crowd.tolist())


def test_an_image_in_a_padded_batch_is_assigned_as_it_is_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    anchors, boxes = _random_boxes(generator, 100), _random_boxes(generator, 3)
    alone = MaxIouAssigner(SPEC)(
        _one_level(anchors), boxes[None], torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3).bool()
    )
    padded = torch.zeros(2, 6, 4)
    padded[1, :3] = boxes
    real = torch.zeros(2, 6, dtype=torch.bool)
    real[1, :3] = True
    both = MaxIouAssigner(SPEC)(_one_level(anchors), padded, real, torch.zeros(2, 6).bool())
    assert both.object_BA[1].tolist() == alone.object_BA[0].tolist()
    assert (both.object_BA[0] == BACKGROUND).all()
    torch.testing.assert_close(both.iou_BA[1], alone.iou_BA[0])


def test_every_object_gets_an_anchor_however_small_its_overlap() -> None:
    anchors = torch.tensor([[0.0, 0.0, 100.0, 100.0], [200.0, 200.0, 300.0, 300.0]])
    tiny = torch.tensor([[[10.0, 10.0, 12.0, 12.0]]])
    found = MaxIouAssigner(SPEC)(_one_level(anchors), tiny, torch.ones(1, 1).bool(), torch.zeros(1, 1).bool())
    assert found.object_BA.tolist() == [[0, BACKGROUND]]


def _atss_in_a_loop(anchors: AnchorSet, boxes: Tensor, real: list[bool], crowd: list[bool], top_k: int) -> list[int]:
    """The paper's algorithm 1, an anchor and an object at a time."""
    iou = pairwise_iou(boxes.numpy(), anchors.boxes_A4.numpy())
    inside = intersection_area(boxes.numpy(), anchors.boxes_A4.numpy())
    sides = (anchors.boxes_A4[:, 2:] - anchors.boxes_A4[:, :2]).tolist()
    best: dict[int, tuple[float, int]] = {}
    for g in range(len(boxes)):
        if not real[g]:
            continue
        x1, y1, x2, y2 = boxes[g].tolist()
        far = ((boxes[g, :2] + boxes[g, 2:]) / 2 - anchors.centre_A2).square().sum(dim=1).tolist()
        candidates, start = [], 0
        for count in anchors.counts:
            candidates += sorted(range(start, start + count), key=lambda a: (far[a], a))[:top_k]
            start += count
        overlaps = [float(iou[g, a]) for a in candidates]
        threshold = statistics.mean(overlaps) + (statistics.stdev(overlaps) if len(overlaps) > 1 else 0.0)
        for a in candidates:
            x, y = anchors.centre_A2[a].tolist()
            central = min(x - x1, y - y1, x2 - x, y2 - y) > CENTRE_MARGIN
            if iou[g, a] >= threshold and central and (a not in best or iou[g, a] > best[a][0]):
                best[a] = (float(iou[g, a]), g)
    answers = []
    for a in range(len(sides)):
        in_crowd = any(
            crowd[g] and inside[g, a] / (sides[a][0] * sides[a][1]) > CROWD_OVERLAP for g in range(len(boxes))
        )
        answers.append(best[a][1] if a in best else IGNORED if in_crowd else BACKGROUND)
    return answers


@pytest.mark.parametrize("objects", [0, 1, 4, 9])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("square", [True, False])
def test_atss_agrees_with_a_loop(objects: int, seed: int, square: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    spec = AnchorSpec(base_size=8, scales=(1.0,), ratios=(1.0,)) if square else AnchorSpec()
    anchors = AnchorGrid(spec)([(8, 10), (4, 5), (2, 3)], [8, 16, 32])
    boxes = _random_boxes(generator, objects)
    boxes[::2] = boxes[::2].round()  # whole pixels: distances to centres tie
    crowd = torch.rand(objects, generator=generator) < 0.2
    real = ~crowd & (torch.rand(objects, generator=generator) < 0.9)
    padded = torch.zeros(2, objects + 3, 4)
    padded[1, :objects] = boxes
    flags = torch.zeros(2, 2, objects + 3, dtype=torch.bool)
    flags[0, 1, :objects], flags[1, 1, :objects] = real, crowd
    found = AtssAssigner(AssignerSpec(kind="atss"))(anchors, padded, *flags)
    assert found.object_BA[1].tolist() == _atss_in_a_loop(anchors, boxes, real.tolist(), crowd.tolist(), 9)
    assert (found.object_BA[0] == BACKGROUND).all()
    best = pairwise_iou(boxes[real].numpy(), anchors.boxes_A4.numpy()).max(axis=0, initial=0.0)
    torch.testing.assert_close(found.iou_BA[1], torch.from_numpy(best))


def test_atss_takes_the_anchors_above_mean_plus_deviation() -> None:
    """By hand: an 8x8 object on the first of four 8x8 anchors in a row, stride 4."""
    corner = torch.tensor([0.0, 4.0, 8.0, 12.0])
    anchors = torch.stack([corner, corner * 0, corner + 8, corner * 0 + 8], dim=1)
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])
    one, none = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.bool)
    # IoUs 1, 1/3, 0, 0: mean 1/3, unbiased deviation 0.471; only the first lies above 0.805.
    found = AtssAssigner(AssignerSpec(kind="atss"))(_one_level(anchors), boxes, one, none)
    assert found.object_BA.tolist() == [[0, BACKGROUND, BACKGROUND, BACKGROUND]]
    # Of two candidates, IoUs 1 and 1/3: mean 2/3, deviation 0.471 lies above both, and nothing is positive.
    found = AtssAssigner(AssignerSpec(kind="atss", top_k=2))(_one_level(anchors), boxes, one, none)
    assert (found.object_BA == BACKGROUND).all()


def test_an_anchor_that_fits_two_objects_alike_goes_to_the_first() -> None:
    anchors = AnchorGrid(AnchorSpec(base_size=8, scales=(1.0,), ratios=(1.0,)))([(6, 6)], [8])
    twins = torch.tensor([[[4.0, 4.0, 36.0, 36.0], [4.0, 4.0, 36.0, 36.0]]])
    found = build_assigner(AssignerSpec(kind="atss"))(
        anchors, twins, torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2, dtype=torch.bool)
    )
    assert set(found.object_BA[0].tolist()) == {BACKGROUND, 0}


def test_claims_can_be_turned_off() -> None:
    tiny = torch.tensor([[[10.0, 10.0, 12.0, 12.0]]])
    spec = AssignerSpec(min_positive_iou=1.0)
    found = MaxIouAssigner(spec)(
        _one_level(torch.tensor([[0.0, 0.0, 100.0, 100.0]])), tiny, torch.ones(1, 1).bool(), torch.zeros(1, 1).bool()
    )
    assert found.object_BA.tolist() == [[BACKGROUND]]

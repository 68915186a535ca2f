"""What teaches the second stage, by numbers computed by hand; and which loss reaches which weights."""

import pytest
import torch
from torch import Tensor, nn

from calibox_training.iou_net.systems import CANDIDATE_FLOOR
from calibox_training.objects import Objects
from calibox_training.rcnn.cascade import CascadeHeads
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.rcnn.heads import BoxHeads, decoded
from calibox_training.rcnn.targets import Target, in_crowd, relabelled, targets_of
from tests.support.systems import SIZE, batch
from tests.support.two_stage import tiny_rcnn

KINDS = ("faster", "cascade", "mask")


def _detector(kind: str, *, branch: bool = True) -> RcnnDetector:
    torch.manual_seed(0)
    return RcnnDetector(tiny_rcnn(kind, branch=branch).model, classes=2)


def _target(boxes: list[list[float]], labels: list[int], crowd: list[list[float]] | None = None) -> Target:
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "crowd": torch.tensor(crowd or []).reshape(-1, 4),
    }


def _masks(objects: Objects) -> Tensor:
    """The boxes themselves as masks."""
    masks = torch.zeros(*objects.labels_BG.shape, *SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks.flatten(0, 1), objects.boxes_BG4.flatten(0, 1).int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def _losses(detector: RcnnDetector) -> dict[str, Tensor]:
    images, objects = batch()
    return detector.train().losses(images, objects, torch.Generator().manual_seed(0), _masks(objects))


# IoU with [0, 0, 10, 10]: 1, 80/100, 65/100, 55/100, 45/100.
WIDTHS_OF_TEN = torch.tensor([[0.0, 0, w, 10] for w in (10, 8, 6.5, 5.5, 4.5)])


@pytest.mark.parametrize(("iou", "expected"), [(0.5, [2, 2, 2, 2, 0]), (0.6, [2, 2, 2, 0, 0]), (0.7, [2, 2, 0, 0, 0])])
def test_each_stage_of_a_cascade_calls_fewer_boxes_objects(iou: float, expected: list[int]) -> None:
    labels, objects = relabelled(WIDTHS_OF_TEN, _target([[50, 50, 60, 60], [0, 0, 10, 10]], [1, 2]), iou)
    assert labels.tolist() == expected
    assert torch.equal(objects[labels > 0], torch.tensor([[0.0, 0, 10, 10]]).expand(sum(v > 0 for v in expected), 4))


def test_without_objects_everything_is_background() -> None:
    labels, objects = relabelled(WIDTHS_OF_TEN, _target([], []), 0.5)
    assert labels.tolist() == [0] * 5
    assert objects.shape == (5, 4)


def test_padding_crowd_and_empty_boxes_are_no_objects() -> None:
    boxes = torch.tensor([[[0.0, 0, 9, 9], [1, 1, 5, 5], [3, 3, 3, 8], [0, 0, 0, 0]]])
    labels = torch.tensor([[1, -1, 0, -1]])
    (target,) = targets_of(Objects(boxes, labels, torch.tensor([[False, True, False, False]])))
    assert target["boxes"].tolist() == [[0, 0, 9, 9]]
    assert target["labels"].tolist() == [2]
    assert target["crowd"].tolist() == [[1, 1, 5, 5]]


def test_a_box_is_in_a_crowd_when_more_than_half_of_it_is() -> None:
    # Of 10 x 10: 60, 50 and 0 of 100 pixels inside the region.
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    assert in_crowd(boxes, torch.tensor([[-4.0, 0, 6, 10]])).tolist() == [True, False, False]
    assert in_crowd(boxes, torch.zeros(0, 4)).tolist() == [False, False, False]


def test_proposals_in_a_crowd_are_no_background_but_objects_there_stay() -> None:
    heads = _detector("faster").roi_heads
    object_, crowd = [10.0, 10, 30, 30], [0.0, 0, 64, 64]
    proposals = [torch.tensor([object_, [40, 40, 60, 60], [70, 70, 90, 90]])]
    boxes, _, labels, _ = heads.select_training_samples(proposals, [_target([object_], [1], [crowd])])
    found = sorted(zip(boxes[0].tolist(), labels[0].tolist(), strict=True))
    # The object itself is a proposal once more.
    assert found == [(object_, 1), (object_, 1), ([70.0, 70, 90, 90], 0)]


class _Says(nn.Module):
    """A predictor that says the same of every box."""

    def __init__(self, logits: list[float], code: list[float]) -> None:
        super().__init__()
        self.logits, self.code = torch.tensor(logits), torch.tensor(code)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.logits.expand(len(features), -1), self.code.expand(len(features), -1)


def test_a_cascade_averages_its_stages_scores_and_passes_boxes_on() -> None:
    heads = _detector("cascade").roi_heads
    assert isinstance(heads, CascadeHeads)
    # softmax of logs: the probabilities themselves. A unit of 0.1, 0.05 and 0.033 of the width to the right each.
    scores = ([0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.2, 0.05, 0.75])
    heads.box_predictor = nn.ModuleList(_Says(torch.tensor(p).log().tolist(), [1.0, 0, 0, 0]) for p in scores)
    pyramid = {name: torch.zeros(1, 16, 8, 8) for name in ("c2", "c3", "c4", "c5", "pool")}
    found = heads.scored(pyramid, [torch.tensor([[10.0, 10, 40, 40]])], SIZE)
    torch.testing.assert_close(found.p_RC, torch.tensor([[0.3, 0.4]]))  # (.25 + .6 + .05) / 3, (.25 + .2 + .75) / 3
    moved = 30 * (0.1 + 0.05 + 0.1 / 3)
    torch.testing.assert_close(found.boxes_RC4, torch.tensor([[[10 + moved, 10, 40 + moved, 40]] * 2]))
    again = heads.regressed(pyramid, [torch.tensor([[10.0, 10, 40, 40]])], torch.tensor([1]), SIZE)
    torch.testing.assert_close(again, torch.tensor([[11.0, 10, 41, 40]]))


def test_later_stages_learn_from_the_boxes_of_the_stage_before() -> None:
    heads = _detector("cascade").roi_heads.train()
    assert isinstance(heads, CascadeHeads)
    # The proposal overlaps its object by 25/35 = 0.71; a unit of 0.1 of its width to the left makes that 22/38 = 0.58.
    target = _target([[10, 10, 40, 40]], [1])
    boxes = [torch.tensor([[5.0, 10, 35, 40]])]
    assert heads._targets(0, boxes, [target])[0][0].tolist() == [1]
    after = heads._next(0, torch.tensor([[-1.0, 0, 0, 0]]), boxes, SIZE)
    torch.testing.assert_close(after[0], torch.tensor([[2.0, 10, 32, 40]]))
    labels, codes = heads._targets(1, after, [target])
    assert labels[0].tolist() == [0]  # 0.58 is below 0.6
    # Eight pixels to the right are 8/30 of the width, in units of 0.05.
    torch.testing.assert_close(codes[0], torch.tensor([[8 / 30 / 0.05, 0, 0, 0]]))


def test_boxes_end_at_the_image() -> None:
    found = decoded(torch.tensor([[10.0, 0, 0, 0]]), torch.tensor([[100.0, 10, 120, 30]]), (0.1, 0.1, 0.2, 0.2), SIZE)
    assert found.tolist() == [[120.0, 10, 128, 30]]


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_learns_from_a_batch(kind: str) -> None:
    detector = _detector(kind)
    losses = _losses(detector)
    assert all(value.isfinite() for value in losses.values())
    stages = 3 if kind == "cascade" else 1
    assert len(losses) == 2 + 2 * stages + 1 + (kind == "mask")
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_branchs_loss_reaches_predictor_and_backbone_and_no_box_head(kind: str) -> None:
    detector = _detector(kind)
    _losses(detector)["loss_iou"].backward()
    reached = {name.split(".")[0] for name, value in detector.named_parameters() if value.grad is not None}
    assert reached == {"predictor", "fpn", "backbone"}
    stem = detector.get_parameter("backbone.conv1.weight").grad
    assert stem is not None
    assert stem.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_proposals_never_teach_the_predictor(kind: str) -> None:
    detector = _detector(kind)
    losses = _losses(detector)
    sum(value for name, value in losses.items() if name != "loss_iou").backward()  # type: ignore[union-attr]
    assert detector.predictor is not None
    assert all(value.grad is None for value in detector.predictor.parameters())


def test_the_branch_is_taught_by_jittered_objects_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, seen = _detector("faster"), []
    outputs = detector.outputs

    def watched(maps: object, boxes_R4: Tensor, image_R: Tensor) -> Tensor:
        seen.append((boxes_R4, image_R))
        return outputs(maps, boxes_R4, image_R)  # type: ignore[arg-type]

    monkeypatch.setattr(detector, "outputs", watched)
    _losses(detector)
    ((boxes, image),) = seen
    _, objects = batch()
    assert boxes.shape == (2 * 32, 4)
    for number in (0, 1):
        labels, _ = relabelled(boxes[image == number], targets_of(objects)[number], 0.5 - 1e-4)
        assert (labels > 0).all()


def test_without_a_branch_there_is_no_predictor_and_no_loss_of_it() -> None:
    detector = _detector("faster", branch=False)
    assert detector.predictor is None
    assert "loss_iou" not in _losses(detector)


@pytest.mark.parametrize("kind", KINDS)
def test_images_without_objects_and_empty_batches_of_boxes_go_through(kind: str) -> None:
    detector = _detector(kind).train()
    images, _ = batch()
    none = Objects(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    masks = torch.zeros(2, 0, *SIZE, dtype=torch.uint8)
    losses = detector.losses(images, none, torch.Generator().manual_seed(0), masks)
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    with torch.no_grad():
        pyramid = detector.eval().pyramid(images)
        nothing = [torch.zeros(0, 4)] * 2
        found = detector.roi_heads.scored(pyramid, nothing, SIZE)
        assert (found.boxes_RC4.shape, found.p_RC.shape) == ((0, 2, 4), (0, 2))
        assert detector.roi_heads.regressed(pyramid, nothing, torch.zeros(0, dtype=torch.int64), SIZE).shape == (0, 4)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["faster", "cascade"])
def test_candidates_are_every_pair_above_the_floor_and_regress_keeps_their_order(kind: str) -> None:
    detector = _detector(kind).eval()
    images, _ = batch()
    pyramid = detector.pyramid(images)
    found = detector.candidates(pyramid, images)
    assert len(found.p_R) > 20
    assert (found.p_R > CANDIDATE_FLOOR).all()
    assert found.image_R.diff().min() >= 0
    bounds = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    assert ((found.boxes_R4 >= 0) & (found.boxes_R4 <= bounds)).all()
    moved = detector.regressed(pyramid, images, found)
    shuffled = torch.randperm(len(found.p_R), generator=torch.Generator().manual_seed(0))
    again = detector.regressed(pyramid, images, type(found)(*(value[shuffled] for value in found)))
    torch.testing.assert_close(again.boxes_R4, moved.boxes_R4[shuffled])
    assert torch.equal(moved.p_R, found.p_R)
    heads: BoxHeads = detector.roi_heads
    first = found.image_R == 0
    alone = heads.regressed(
        {name: level[:1] for name, level in pyramid.items()}, [found.boxes_R4[first]], found.label_R[first], SIZE
    )
    torch.testing.assert_close(moved.boxes_R4[first], alone, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_what_is_predicted_of_a_pair_is_its_own_classs_output() -> None:
    detector = _detector("faster").eval()
    images, _ = batch()
    pyramid = detector.pyramid(images)
    found = detector.candidates(pyramid, images)
    outputs = detector.outputs(detector.maps(pyramid), found.boxes_R4, found.image_R)
    wanted = [(outputs[row, label].item() + 1) / 2 for row, label in enumerate(found.label_R.tolist())]
    q = detector.localization(pyramid, found)
    torch.testing.assert_close(q, torch.tensor(wanted).clamp(0, 1))
    assert torch.equal(_detector("faster", branch=False).localization(pyramid, found), torch.ones_like(q))

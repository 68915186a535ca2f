"""What each quality branch learns, by hand on three anchors and two objects."""

import math

import pytest
import torch
from torch import Tensor

from calibox_core.fusion import Fusion, FusionName
from calibox_training.anchors import AnchorSet
from calibox_training.assigner import BACKGROUND, IGNORED, Assignment
from calibox_training.criterion import Criterion
from calibox_training.inference import CandidateGraph
from calibox_training.models.detector import Detector
from calibox_training.models.heads import HeadOutput
from calibox_training.objects import Objects
from calibox_training.quality import LAAR_BETA, Matches, quality_loss
from calibox_training.quality_spec import (
    CenternessQuality,
    IouAwareQuality,
    LaarQuality,
    LqeQuality,
    NoQuality,
    QualityBranch,
)
from calibox_training.recipe import RecipeError
from tests.support.recipes import tiny_recipe
from tests.support.systems import SIZE, SYSTEMS, batch, run, system

LOGITS = torch.tensor([[0.8, -0.4, 1.2]])
# The first anchor is positive, the second ignored, the third background; each overlaps some object.
MATCHES = Matches(
    assignment=Assignment(torch.tensor([[0, IGNORED, BACKGROUND]]), torch.tensor([[0.6, 0.45, 0.3]])),
    anchors_A4=torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0], [16.0, 0.0, 24.0, 8.0]]),
    object_BA4=torch.tensor([[[0.0, 2.0, 12.0, 12.0], [0.0] * 4, [0.0] * 4]]),  # l 4, r 8, t 2, b 8
    label_BA=torch.tensor([[1, -1, -1]]),
    iou_BA=torch.tensor([[0.7, 0.0, 0.0]]),
)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _bce(logit: float, target: float) -> float:
    return -(target * math.log(_sigmoid(logit)) + (1 - target) * math.log(1 - _sigmoid(logit)))


def _soft_focal(logit: float, target: float) -> float:
    return (_sigmoid(logit) - target) ** 2 * _bce(logit, target)


CASES: list[tuple[QualityBranch, list[float]]] = [
    (IouAwareQuality(), [_bce(0.8, 0.7), 0, 0]),
    (IouAwareQuality(loss="l2"), [(_sigmoid(0.8) - 0.7) ** 2, 0, 0]),
    (LqeQuality(), [_bce(0.8, 0.7), 0, 0]),
    (CenternessQuality(), [_bce(0.8, math.sqrt(0.5 * 0.25)), 0, 0]),
    (LaarQuality(), [_bce(0.8, 0.6), 0, 0]),
    (LaarQuality(loss="smooth_l1_pos"), [(_sigmoid(0.8) - 0.6) ** 2 / 2 / LAAR_BETA, 0, 0]),
    (LaarQuality(loss="focal_soft"), [_soft_focal(0.8, 0.6), 0, _soft_focal(1.2, 0.3)]),
]


@pytest.mark.parametrize(("branch", "expected"), CASES, ids=lambda value: str(getattr(value, "method", "")))
def test_elements_of_each_branch(branch: QualityBranch, expected: list[float]) -> None:
    if isinstance(branch, LaarQuality) and branch.loss == "smooth_l1_pos":
        assert abs(_sigmoid(0.8) - 0.6) < LAAR_BETA  # the quadratic part
    torch.testing.assert_close(quality_loss(branch, LOGITS[..., None], MATCHES), torch.tensor([expected]).float())


def test_without_a_branch_there_is_nothing_to_learn() -> None:
    assert quality_loss(NoQuality(), None, MATCHES).tolist() == [[0.0, 0.0, 0.0]]


def test_laar_learns_the_anchors_iou_with_any_object() -> None:
    """An anchor that claims one object and overlaps another better learns the better overlap."""
    anchors = AnchorSet(torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]]), torch.full((2,), 8.0), (2,))
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0]]])
    recipe = tiny_recipe(model__quality={"method": "laar"})
    logits = torch.tensor([[[0.8], [-0.4]]])
    found = HeadOutput(torch.zeros(1, 2, 2), torch.zeros(1, 2, 4), logits)
    objects = Objects(boxes, torch.tensor([[0, 1]]), torch.zeros(1, 2, dtype=torch.bool))
    losses = Criterion(recipe.model, recipe.loss)(found, anchors, objects)
    expected = (_bce(0.8, 1.0) + _bce(-0.4, 90 / 110)) / 2
    assert losses.quality.item() == pytest.approx(expected, rel=1e-5)


def test_laars_head_has_the_structure_of_the_others() -> None:
    head = run(system("laar"))[0].head
    assert head.quality_tower is not None
    assert [str(layer) for layer in head.quality_tower] == [str(layer) for layer in head.class_tower]
    assert head.quality_tower[0].weight is not head.class_tower[0].weight


@pytest.mark.parametrize("fusion", [FusionName.CLASSIFICATION, FusionName.PRODUCT, FusionName.POWER])
def test_without_a_branch_every_fused_score_is_the_classification_score(fusion: FusionName) -> None:
    detector = Detector(system("retinanet").model, classes=2).eval()
    exponents = Fusion(name=fusion).exponents()
    with torch.no_grad():
        graph = CandidateGraph(detector, height=SIZE[0], width=SIZE[1], per_level_top_k=100)
        _, p, q = graph(batch()[0], torch.tensor([exponents, exponents]))
    assert q.shape == (*p.shape[:2], 1)
    assert (q == 1).all()
    assert not hasattr(detector.head.quality_conv, "weight")


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_system_learns_a_batch_by_heart(name: str) -> None:
    """Thirty steps on two images: every part of the loss is finite and their sum falls."""
    recipe = system(name)
    torch.manual_seed(0)
    detector = Detector(recipe.model, classes=2).train()
    criterion, (images, objects) = Criterion(recipe.model, recipe.loss), batch()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    seen: list[Tensor] = []
    for _ in range(30):
        losses = criterion(detector(detector.normalise(images)), detector.anchors(*SIZE), objects)
        assert all(part.isfinite() for part in losses)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        seen.append(losses.total.detach())
    assert seen[-1] < 0.6 * seen[0]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_batch_without_objects_moves_no_box(name: str) -> None:
    recipe = system(name)
    detector = Detector(recipe.model, classes=2)
    found = detector(detector.normalise(batch()[0]))
    nothing = Objects(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool))
    losses = Criterion(recipe.model, recipe.loss)(found, detector.anchors(*SIZE), nothing)
    losses.total.backward()
    assert losses.box.item() == 0.0
    # Softmax keeps background in proportion to an image's positives: here none.
    assert (losses.classification.item() > 0) is (recipe.loss.classification != "softmax")
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize("kind", ["vfl", "mal", "ia_bce"])
@pytest.mark.parametrize("name", ["clq", "iou_aware", "retinanet"])
def test_losses_combine_with_any_branch(name: str, kind: str) -> None:
    alpha = 0.0 if name == "retinanet" else 0.3
    losses = run(system(name, **{"loss__classification": kind, "loss__joint_alpha": alpha}))[2]
    losses.total.backward()
    assert losses.total.isfinite()


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        ("retinanet", {"fusion": {"name": "product"}}, "nothing to fuse"),
        ("retinanet", {"loss__classification": "qfl", "loss__joint_alpha": 0.3}, "needs a quality branch"),
        ("iou_aware", {"loss__joint_alpha": 0.3}, "needs a quality branch"),
        ("iou_aware", {"model__align": True}, "one anchor per location"),
        ("clq", {"loss__box": "smooth_l1"}, "write loss: {box: giou}"),
        ("laar", {"model__quality__loss": "bce"}, "bce_pos"),
        ("iou_aware", {"model__quality": {"method": "dal"}}, "model.quality"),
        ("iou_aware", {"model__quality": {"method": "led"}}, "write head: single"),
    ],
)
def test_parts_that_do_not_fit_are_refused_in_a_sentence(
    name: str, overrides: dict[str, object], sentence: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        system(name, **overrides)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", ["clq", "clq_atss", "laar"])
def test_a_step_in_bfloat16_has_finite_gradients(name: str) -> None:
    recipe = system(name)
    torch.manual_seed(0)
    detector, (images, objects) = Detector(recipe.model, classes=2), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = detector(detector.normalise(images))
        losses = Criterion(recipe.model, recipe.loss)(found, detector.anchors(*SIZE), objects)
    assert found.class_BAC.dtype == torch.bfloat16
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())

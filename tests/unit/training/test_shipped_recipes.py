"""Every recipe that ships, at its full depth and a reduced input: one step, then candidates."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from calibox_training.criterion import Criterion
from calibox_training.inference import CandidateGraph
from calibox_training.models.detector import Detector
from calibox_training.objects import Objects
from calibox_training.recipe import BUILTIN_RECIPES, Recipe, load_recipe, with_overrides
from tests.support.full_size import BASELINES, settle_on
from tests.support.recipes import shipped
from tests.support.systems import batch

# SSD's layers leave nothing of much less.
SSD_SIZE = (268, 268)


def _batch_for(detector: Detector) -> tuple[Tensor, Objects]:
    """Two images with objects for every level: heads that levels do not share learn from their own alone."""
    if detector.ssd is None:
        return batch()
    anchors, start, boxes = detector.anchors(*SSD_SIZE), 0, []
    for count, shapes in zip(anchors.counts, detector.spec.anchors.per_level, strict=True):
        boxes.append(anchors.boxes_A4[start + count // shapes // 2 * shapes])  # a square near the middle
        start += count
    images = torch.randint(0, 255, (2, *SSD_SIZE, 3), dtype=torch.uint8)
    labels = torch.arange(len(boxes)).expand(2, -1) % 3
    return images, Objects(torch.stack(boxes).expand(2, -1, -1), labels, torch.zeros(2, len(boxes), dtype=torch.bool))


def _step_and_candidates(recipe: Recipe, **overrides: object) -> None:
    recipe = with_overrides(recipe, {"model.backbone_weights": "none", **overrides})
    torch.manual_seed(0)
    detector = Detector(recipe.model, classes=3)
    images, objects = _batch_for(detector)
    size = (images.shape[1], images.shape[2])
    settle_on(detector, images)
    detector.train()
    before = {name: p.detach().clone() for name, p in detector.head.named_parameters()}
    losses = Criterion(recipe.model, recipe.loss)(
        detector(detector.normalise(images)), detector.anchors(*size), objects
    )
    assert losses.total.isfinite()
    losses.total.backward()
    gradients = [p.grad for p in detector.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3).step()
    moved = {name for name, p in detector.head.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before)
    graph = CandidateGraph(detector.eval(), height=size[0], width=size[1], per_level_top_k=50)
    with torch.no_grad():
        boxes, p, q = graph(images, torch.tensor([recipe.fusion.exponents()] * 2))
    count = sum(min(50, level) for level in detector.anchors(*size).counts)
    assert (boxes.shape, p.shape, q.shape) == ((2, count, 4), (2, count, 3), (2, count, 1))
    assert all(tensor.isfinite().all() for tensor in (boxes, p, q))
    assert 0 <= q.min() <= q.max() <= 1


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_learns_a_step_and_gives_candidates(name: str) -> None:
    recipe = load_recipe(name)
    # VGG16 at its smallest input takes longer than all other tests: a quarter of it here, the whole once below.
    width = {"model.backbone_width": 0.25} if recipe.model.neck == "ssd" else {}
    _step_and_candidates(recipe, **width)


@pytest.mark.slow
def test_ssd_learns_a_step_at_its_full_width() -> None:
    _step_and_candidates(load_recipe("laar_ssd300_voc"))


@pytest.mark.parametrize("backbone", BASELINES)
def test_the_baseline_takes_each_backbone(backbone: str) -> None:
    _step_and_candidates(with_overrides(load_recipe("retinanet_r50"), {"model.backbone": backbone}))


def test_the_guide_names_every_recipe_that_ships() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    names = [path.stem for path in BUILTIN_RECIPES.glob("*.yaml")]
    assert names
    assert [name for name in names if f"`{name}`" not in guide] == []

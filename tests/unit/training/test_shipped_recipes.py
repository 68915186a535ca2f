"""Every recipe that ships, at its full depth and a reduced input: one step, then candidates."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from calibox_training.criterion import Criterion
from calibox_training.inference import CandidateGraph
from calibox_training.models.detector import Detector
from calibox_training.recipe import BUILTIN_RECIPES, Recipe, load_recipe, with_overrides
from tests.support.systems import SIZE, batch

RECIPES = sorted(BUILTIN_RECIPES.glob("*.yaml"))
BASELINES = ("resnet18", "resnet50", "resnet101", "resnext101_32x8d", "resnext101_64x4d")


def _settle(detector: Detector, images: Tensor) -> None:
    """Statistics of these images: a fresh backbone has none, and a deep one would overflow without them."""
    norms = [module for module in detector.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    epsilons = [norm.eps for norm in norms]
    for norm in norms:
        norm.momentum, norm.eps = 1.0, 1e-5  # torch takes no statistics with an epsilon of 0
    detector.backbone.train()
    with torch.no_grad():
        detector.backbone(detector.normalise(images))
    for norm, epsilon in zip(norms, epsilons, strict=True):
        norm.eps = epsilon


def _step_and_candidates(recipe: Recipe) -> None:
    recipe = with_overrides(recipe, {"model.backbone_weights": "none"})
    torch.manual_seed(0)
    detector, (images, objects) = Detector(recipe.model, classes=3), batch()
    _settle(detector, images)
    detector.train()
    before = {name: p.detach().clone() for name, p in detector.head.named_parameters()}
    losses = Criterion(recipe.model, recipe.loss)(
        detector(detector.normalise(images)), detector.anchors(*SIZE), objects
    )
    assert losses.total.isfinite()
    losses.total.backward()
    gradients = [p.grad for p in detector.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    torch.optim.SGD([p for p in detector.parameters() if p.requires_grad], lr=1e-3).step()
    moved = {name for name, p in detector.head.named_parameters() if not torch.equal(p, before[name])}
    assert moved == set(before)
    graph = CandidateGraph(detector.eval(), height=SIZE[0], width=SIZE[1], per_level_top_k=50)
    with torch.no_grad():
        boxes, p, q = graph(images, torch.tensor([recipe.fusion.exponents()] * 2))
    count = sum(min(50, level) for level in detector.anchors(*SIZE).counts)
    assert (boxes.shape, p.shape, q.shape) == ((2, count, 4), (2, count, 3), (2, count, 1))
    assert all(tensor.isfinite().all() for tensor in (boxes, p, q))
    assert 0 <= q.min() <= q.max() <= 1


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_learns_a_step_and_gives_candidates(path: Path) -> None:
    _step_and_candidates(load_recipe(path.stem))


@pytest.mark.parametrize("backbone", BASELINES)
def test_the_baseline_takes_each_backbone(backbone: str) -> None:
    _step_and_candidates(with_overrides(load_recipe("retinanet_r50"), {"model.backbone": backbone}))


def test_the_guide_names_every_recipe_that_ships() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    assert [path.stem for path in RECIPES if f"`{path.stem}`" not in guide] == []

"""Recipes of kind rcnn: what is refused and how; and every one that ships takes a step at a reduced input."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from calibox_training.kinds import load_any, parse_any
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.rcnn.recipe import RcnnRecipe, parse_rcnn
from calibox_training.recipe import BUILTIN_RECIPES, Recipe, RecipeError, load_recipe, with_overrides
from tests.support.recipes import shipped, tiny_recipe
from tests.support.systems import SIZE, batch
from tests.support.two_stage import tiny_rcnn


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modle": {}}, "modle"),
        ({"input": {"height": 100, "width": 128}}, "100x128 pixels .* multiples of 32"),
        ({"augmentation": {"sizes": [[96, 130]]}}, "96x130"),
        ({"model": {"detector": "fastest", "backbone": "resnet18"}}, r"model\.detector"),
        ({"model": {"detector": "faster", "backbone": "vgg16"}}, "vgg16 does not give: take a resnet"),
        ({"model": {"detector": "faster", "backbone": "resnet50", "backbone_width": 0.5}}, "backbone_width needs one"),
        ({"model": {"detector": "faster", "backbone": "resnet18", "anchor_sizes": [8, 16]}}, r"model\.anchor_sizes"),
        (
            {"model": {"detector": "faster", "backbone": "resnet18"}},
            r"without model\.iou_branch the fusion",
        ),
        (
            {"model": {"detector": "faster", "backbone": "resnet18", "rois": {"per_image": 0}}},
            r"model\.rois\.per_image",
        ),
    ],
)
def test_a_wrong_key_or_value_is_named(change: dict[str, Any], named: str) -> None:
    document = tiny_rcnn().model_dump(mode="json") | change
    with pytest.raises(RecipeError, match=named) as caught:
        parse_rcnn(document, source="mine.yaml")
    assert "mine.yaml" in str(caught.value)


def test_a_kind_that_does_not_exist_is_a_sentence() -> None:
    with pytest.raises(RecipeError, match=r"mine\.yaml is of kind detr, which does not exist: write kind: rcnn"):
        parse_any(tiny_rcnn().model_dump(mode="json") | {"kind": "detr"}, source="mine.yaml")


def test_a_two_stage_recipe_where_a_single_stage_one_is_needed_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tiny_rcnn().model_dump(mode="json")))
    with pytest.raises(RecipeError, match="is of kind rcnn, and a single-stage recipe"):
        load_recipe(str(path))
    assert load_any(str(path)) == tiny_rcnn()


def test_a_recipe_without_a_kind_is_single_stage() -> None:
    assert parse_any(tiny_recipe().model_dump(mode="json"), source="mine.yaml") == tiny_recipe()
    assert isinstance(load_any("bccd"), Recipe)


def test_overrides_keep_the_kind() -> None:
    changed = with_overrides(tiny_rcnn(), {"schedule.epochs": 7, "model.backbone_weights": "none", "seed": None})
    assert isinstance(changed, RcnnRecipe)
    assert changed.schedule.epochs == 7


def test_two_stage_recipes_ship() -> None:
    assert set(shipped("rcnn")) == {
        "faster_rcnn_r50_fpn",
        "iou_net_faster_r50",
        "iou_net_cascade_r50",
        "iou_net_mask_r50",
    }


@pytest.mark.parametrize("name", shipped("rcnn"))
def test_a_recipe_learns_a_step_at_a_reduced_input(name: str) -> None:
    recipe = load_any(name)
    assert isinstance(recipe, RcnnRecipe)
    assert load_any(str(BUILTIN_RECIPES / f"{name}.yaml")) == recipe
    assert (recipe.model.iou_branch is None) == (name == "faster_rcnn_r50_fpn")
    height, width = SIZE
    # Narrow layers: what is tested is the recipe, and its 1024 units would take most of the time.
    narrow = {
        "input": {"height": height, "width": width},
        "model.backbone_weights": "none",
        "model.box_head_width": 32,
        "model.mask_channels": 16,
        "model.proposals.after_nms_training": 100,
        "model.rois.per_image": 32,
    }
    if recipe.model.iou_branch is not None:
        narrow |= {"model.iou_branch.predictor.width": 32, "model.iou_branch.jitter.per_image": 16}
    recipe = with_overrides(recipe, narrow)
    torch.manual_seed(0)
    detector = RcnnDetector(recipe.model, classes=3)
    for module in detector.backbone.modules():  # a fresh deep backbone has no statistics, and overflows without them
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    images, objects = batch()
    with torch.no_grad():
        detector.pyramid(images)
    detector.train()
    before = {key: value.detach().clone() for key, value in detector.named_parameters()}
    masks = torch.ones(2, 1, *SIZE, dtype=torch.uint8)
    losses = detector.losses(images, objects, torch.Generator().manual_seed(0), masks)
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    torch.optim.SGD([value for value in detector.parameters() if value.requires_grad], lr=1e-3).step()
    stuck = {key for key, value in detector.named_parameters() if torch.equal(value, before[key])}
    frozen = {key for key in before if key.startswith(tuple(f"backbone.{name}" for name in recipe.model.frozen))}
    assert stuck >= frozen
    assert {key.split(".")[0] for key in stuck - frozen} <= {"backbone"}  # batch norms whose units are all at rest
    with torch.no_grad():
        found = detector.eval().candidates(detector.pyramid(images), images)
        assert all(value.isfinite().all() for value in found)


def test_the_guides_recipe_is_one() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "two-stage.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    recipe = parse_any(yaml.safe_load(block), source="the guide")
    assert isinstance(recipe, RcnnRecipe)
    assert recipe.model.iou_branch is not None

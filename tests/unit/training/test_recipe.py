from pathlib import Path

import pytest
import yaml

from calibox_training.quality_spec import IouAwareQuality
from calibox_training.recipe import BUILTIN_RECIPES, RecipeError, load_recipe, parse_recipe, with_overrides
from tests.support.recipes import shipped, tiny_recipe


@pytest.mark.parametrize("name", shipped())
def test_every_recipe_that_ships_is_valid_and_found_by_its_name(name: str) -> None:
    assert load_recipe(name) == load_recipe(str(BUILTIN_RECIPES / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"modle": {}}, "modle"),
        ({"model": {"backbone": "resnet18", "tower_dept": 3}}, "model.tower_dept"),
        ({"model": {"backbone": "resnet19"}}, "model.backbone"),
        ({"schedule": {"learning_rate": -1, "epochs": 1, "batch_size": 1}}, "schedule.learning_rate"),
        ({"fusion": {"name": "harmonic"}}, "fusion.name"),
        ({"model": {"backbone": "resnet18", "assigner": {"positive_iou": 0.3}}}, "negative_iou"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, change: dict[str, object], named: str) -> None:
    document = tiny_recipe().model_dump(mode="json") | change
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(RecipeError, match=named.replace(".", r"\.")) as caught:
        load_recipe(str(path))
    assert str(path) in str(caught.value)


def test_an_unknown_recipe_lists_those_that_ship() -> None:
    with pytest.raises(RecipeError, match="bccd"):
        load_recipe("no-such-recipe")


def test_broken_yaml_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: [")
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        load_recipe(str(path))


def test_overrides_replace_only_what_is_given_and_are_validated() -> None:
    recipe = tiny_recipe()
    changed = with_overrides(recipe, {"schedule.epochs": 7, "seed": None})
    assert changed.schedule.epochs == 7
    assert changed.model_copy(update={"schedule": recipe.schedule}) == recipe
    with pytest.raises(RecipeError, match=r"schedule\.epochs"):
        with_overrides(recipe, {"schedule.epochs": 0})


def test_a_recipe_from_before_there_were_methods_means_what_it_meant() -> None:
    old = tiny_recipe().model_dump(mode="json")
    old["model"] = {"backbone": "mobilenet_v3_large", "quality": {"loss": "l2", "detach_target": False}}
    old["loss"] = {"box_weight": 2.0}
    recipe = parse_recipe(old, source="an old recipe")
    assert recipe.model.quality == IouAwareQuality(loss="l2", detach_target=False)
    assert (recipe.model.box.coding, recipe.model.assigner.kind, recipe.model.pyramid_top) == ("delta", "max_iou", "c5")
    assert (recipe.loss.classification, recipe.loss.box, recipe.loss.box_weighting) == ("focal", "smooth_l1", "uniform")
    assert (recipe.quality.method, recipe.quality.target) == ("iou_aware", "iou")


@pytest.mark.parametrize(
    ("name", "method", "target"),
    [("laar_retinanet_r50", "laar", "anchor_iou"), ("clq", "lqe", "iou"), ("retinanet_r50", "none", "none")],
)
def test_the_manifest_says_what_the_localization_score_is(name: str, method: str, target: str) -> None:
    quality = load_recipe(name).quality
    assert (quality.method, quality.target, quality.per_class) == (method, target, False)

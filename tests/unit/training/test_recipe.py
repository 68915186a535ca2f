from pathlib import Path

import pytest
import yaml

from calibox_training.recipe import BUILTIN_RECIPES, RecipeError, load_recipe, with_overrides
from tests.support.recipes import tiny_recipe


@pytest.mark.parametrize("path", sorted(BUILTIN_RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_ships_is_valid_and_found_by_its_name(path: Path) -> None:
    assert load_recipe(path.stem) == load_recipe(str(path))


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

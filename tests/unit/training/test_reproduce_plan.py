"""The plans that ship: systems, recipes and tables fit together; and what a plan of one's own is told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from calibox_training.reproduce.papers import Request, chosen
from calibox_training.reproduce.plan import (
    PLANS,
    BudgetName,
    PlanError,
    document_hash,
    load_plan,
    with_values,
)
from calibox_training.reproduce.rankings import own_ranking, rankings
from calibox_training.reproduce.runner import expected_seconds
from calibox_training.reproduce.tables import OWN, load_tables

BUDGETS: tuple[BudgetName, BudgetName] = ("cpu", "gpu")


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_cell_of_a_plan_that_ships_has_a_valid_recipe_of_its_own(budget: BudgetName) -> None:
    cells = list(load_plan(budget).cells())
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.recipe.seed == cell.seed
        assert cell.recipe.data.name == cell.data
        quality, own = cell.recipe.model.quality.method, own_ranking(cell.recipe.fusion, cell.recipe.nms.out_score)
        assert (own == "classification") == (quality == "none"), cell.name


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_row_of_the_papers_tables_has_a_system_and_a_ranking(budget: BudgetName) -> None:
    plan = load_plan(budget)
    there = {(data, system.name) for system in plan.systems for data in system.data}
    for table in load_tables():
        for row in table.rows:
            assert {(data, row.system) for data in table.data} <= there, (table.title, row.label)
            assert row.ranking in {OWN, *rankings()}
            assert table.base(row) in table.rows


def test_seeds_come_one_after_another_and_the_first_system_first() -> None:
    cells = list(load_plan("cpu").cells())
    seeds = [cell.seed for cell in cells]
    assert seeds == sorted(seeds)
    assert (cells[0].system.name, cells[0].data) == ("iou_aware", "deeppcb")


def test_systems_differ_from_their_family_by_their_overrides_alone() -> None:
    for cell in load_plan("cpu").cells():
        assert cell.document == with_values(cell.base, {**cell.system.overrides, "name": cell.document["name"]})


def test_a_recipe_s_hash_knows_values_and_not_their_order() -> None:
    assert document_hash({"a": 1, "b": {"c": 2, "d": 3}}) == document_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert document_hash({"a": 1}) != document_hash({"a": 2})


def request(**values: Any) -> Request:
    return Request(budget="cpu", output=Path("none"), runs=Path("none"), **values)


def test_asking_for_a_system_brings_those_it_goes_on_from() -> None:
    plan = load_plan("cpu")
    found = {cell.system.name for cell in chosen(plan, request(only=("led_rf",)))}
    assert found == {"ssd", "led_rf_step2", "led_rf"}
    assert {cell.data for cell in chosen(plan, request(data={"coco_person": "x"}))} == {"coco_person"}


def test_strangers_are_named_with_what_there_is() -> None:
    plan = load_plan("cpu")
    with pytest.raises(PlanError, match=r"no system nosuch; it has .*iou_aware"):
        chosen(plan, request(only=("nosuch",)))
    with pytest.raises(PlanError, match=r"no data set moon; it has bccd"):
        chosen(plan, request(data={"moon": "moon"}))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"systems.0.start_from": "later"}, "starts from later, which is not a system before it"),
        ({"systems.0.family": "nosuch"}, "no base recipe of family nosuch for deeppcb"),
        ({"systems.0.overrules": {}}, "overrules"),
        ({"systems.1.name": "iou_aware"}, "systems that occur twice: iou_aware"),
    ],
)
def test_a_plan_that_does_not_fit_together_is_a_sentence(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    systems = yaml.safe_load((PLANS / "systems.yaml").read_text())
    for path, value in changes.items():
        _, number, key = path.split(".")
        systems["systems"][int(number)][key] = value
    (tmp_path / "systems.yaml").write_text(yaml.safe_dump(systems))
    (tmp_path / "cpu.yaml").write_text((PLANS / "cpu.yaml").read_text())
    with pytest.raises(PlanError, match=sentence):
        load_plan("cpu", tmp_path)


def test_a_plan_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="cannot be read"):
        load_plan("cpu", tmp_path)


def test_a_cell_is_expected_to_take_what_its_nearest_kin_took() -> None:
    cells = {(c.data, c.system.name, c.seed): c for c in load_plan("cpu").cells()}
    wanted = cells["deeppcb", "iou_aware", 1]
    other_data = (cells["bccd", "iou_aware", 0], 7.0)
    other_family = (cells["deeppcb", "qfl", 0], 100.0)
    family = (cells["deeppcb", "laar", 0], 60.0)
    own = [(cells["deeppcb", "iou_aware", 0], 40.0), (cells["deeppcb", "iou_aware", 2], 50.0)]
    assert expected_seconds(wanted, [other_data]) == 0.0
    assert expected_seconds(wanted, [other_data, other_family]) == 100.0
    assert expected_seconds(wanted, [other_data, other_family, family]) == 60.0
    assert expected_seconds(wanted, [other_data, other_family, family, *own]) == 45.0

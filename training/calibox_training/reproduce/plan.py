"""What is compared, as data: systems, the recipes that they start from, and the cells of a budget.

A cell is one training: (data set, system, seed). A system is its family's base recipe and the keys that its paper
changes, so that two systems of a family differ by nothing else.
"""

import hashlib
import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from calibox_core.errors import CaliboxError
from calibox_training.parts import Part
from calibox_training.recipe import Recipe, parse_recipe

PLANS = Path(__file__).parent / "plans"
BudgetName = Literal["cpu", "gpu"]


class PlanError(CaliboxError):
    """A plan cannot be read or does not fit together; the text says where."""


class System(Part):
    """A row of a paper's table."""

    name: str
    data: tuple[str, ...] = Field(min_length=1, description="Data sets that it is trained on.")
    family: str = Field(description="Base recipe that it changes; systems of a family start from the same weights.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Dotted paths and values.")
    start_from: str | None = Field(
        default=None, description="System whose finished weights, of the same data and seed, this one goes on from."
    )


class Budget(Part):
    """A machine's share: how long, which seeds, and a base recipe for each data set and family."""

    minutes: float = Field(gt=0)
    accelerator: str
    seeds: tuple[int, ...] = Field(min_length=1)
    bases: dict[str, dict[str, dict[str, Any]]] = Field(description="Recipe documents by data set and family.")


@dataclass(frozen=True, slots=True)
class Cell:
    """One training."""

    data: str
    system: System
    seed: int
    document: dict[str, Any]  # of the recipe, seed included
    base: dict[str, Any]  # of the family, whose fresh weights all its systems share

    @property
    def name(self) -> str:
        """Also that of its result."""
        return f"{self.data}-{self.system.name}-seed{self.seed}"

    @property
    def recipe(self) -> Recipe:
        """The validated recipe."""
        return parse_recipe(self.document, source=f"the recipe of {self.name}")

    @property
    def data_name(self) -> str:
        """Of the data set, where no folder is given for it."""
        name: str = self.document["data"]["name"]
        return name

    @property
    def recipe_hash(self) -> str:
        """Of the document as written: new keys with defaults leave it as it is."""
        return document_hash(self.document)

    def folder(self, runs: Path) -> Path:
        """Where it is trained."""
        return cell_folder(runs, self.data, self.system.name, self.seed)

    def source(self, runs: Path) -> Path | None:
        """Folder of the cell that it goes on from."""
        other = self.system.start_from
        return None if other is None else cell_folder(runs, self.data, other, self.seed)


class Plan(Part):
    """Systems and a budget; systems are in the order of their importance."""

    systems: tuple[System, ...]
    budget: Budget

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [system.name for system in self.systems]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"systems that occur twice: {', '.join(twice)}")
        for number, system in enumerate(self.systems):
            if system.start_from is not None and system.start_from not in names[:number]:
                raise ValueError(f"{system.name} starts from {system.start_from}, which is not a system before it")
            for data in system.data:
                if system.family not in self.budget.bases.get(data, {}):
                    raise ValueError(f"there is no base recipe of family {system.family} for {data} ({system.name})")
        return self

    def cells(self) -> Iterator[Cell]:
        """All cells, seed by seed, so that a budget that ends early has touched every system."""
        for seed in self.budget.seeds:
            for system in self.systems:
                for data in system.data:
                    base = with_values(self.budget.bases[data][system.family], {"seed": seed})
                    name = f"{data}-{system.name}".replace("_", "-")
                    yield Cell(data, system, seed, with_values(base, {**system.overrides, "name": name}), base)


def load_plan(budget: BudgetName, folder: Path = PLANS) -> Plan:
    """The plan that ships, for one budget.

    Raises:
        PlanError: a file cannot be read, or its contents do not fit together.
    """
    try:
        systems, machine = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("systems", budget))
        shared = ("parts",)  # YAML anchors that the bases refer to
        own = {key: value for key, value in machine.items() if key not in shared}
        return Plan.model_validate({"systems": systems["systems"], "budget": own})
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"the plan in {folder} cannot be read: {error}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'plan'}: {e['msg']}" for e in error.errors())
        raise PlanError(f"the plan in {folder} does not fit together: {wrong}") from error


def with_values(document: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of a recipe document with values at dotted paths; parts that are not there are made."""
    changed = deepcopy(document)
    for path, value in values.items():
        *parents, last = path.split(".")
        part = changed
        for parent in parents:
            part = part.setdefault(parent, {})
        part[last] = deepcopy(value)
    return changed


def document_hash(document: dict[str, Any]) -> str:
    """Twelve hexadecimal digits, whatever the order of keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]


def cell_folder(runs: Path, data: str, system: str, seed: int) -> Path:
    """Where a cell is trained."""
    return runs / data / system / f"seed{seed}"

"""The papers' tables as data, and the figures of their rows from results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from pydantic import Field

from calibox_training.parts import Part
from calibox_training.reproduce.plan import PLANS
from calibox_training.reproduce.results import BASE, DRAW_UNIT, CellResult
from calibox_training.reproduce.statistics import Estimate, hierarchical, paired_t

Key = tuple[str, str]  # data set, system
Results = Mapping[Key, Mapping[int, CellResult]]  # by seed
OWN = "own"  # the recipe's ranking
POINTS = 100  # of AP 0..1


class Row(Part):
    """A row of a paper's table."""

    label: str
    system: str
    ranking: str
    against: str | None = Field(default=None, description="Label of the row that the gain is measured from.")
    published: dict[str, float] = Field(default_factory=dict, description="Points.")
    note: str = Field(default="", description="Why no system of the plan stands for the row.")


class Table(Part):
    """A table of a paper."""

    title: str
    paper: str
    data: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...] = Field(min_length=1)

    def base(self, row: Row) -> Row:
        """The row that a gain is measured from."""
        if row.against is None:
            return self.rows[0]
        return next(other for other in self.rows if other.label == row.against)


@dataclass(frozen=True, slots=True)
class Gain:
    """A row against another, in points."""

    estimate: Estimate
    differences: tuple[float, ...]  # of each seed
    kind: str  # what the interval is over

    @property
    def seeds(self) -> int:
        """Seeds that both rows have."""
        return len(self.differences)


def load_tables(folder: Path = PLANS) -> tuple[Table, ...]:
    """The tables that ship."""
    return tuple(Table.model_validate(row) for row in yaml.safe_load((folder / "tables.yaml").read_text())["tables"])


def metric(result: CellResult, ranking: str, name: str) -> float:
    """A metric of a cell in points; NaN where it could not be measured."""
    found = result.rankings[result.own if ranking == OWN else ranking].metrics[name]
    return float("nan") if found is None else found * POINTS


def mean_of(results: Results, data: str, row: Row, name: str) -> tuple[float, int]:
    """Mean over finished seeds in points (NaN without any), and their number."""
    values = [metric(result, row.ranking, name) for result in results.get((data, row.system), {}).values()]
    return (float(np.mean(values)) if values else float("nan")), len(values)


def gain(results: Results, data: str, row: Row, base: Row, name: str) -> Gain:
    """A metric of a row minus that of another, paired by seed.

    Against the same weights ranked by `classification` the interval is over seeds and images where each draw was kept,
    and over images where there is one seed; else it is Student's over seeds.
    """
    ours, theirs = results.get((data, row.system), {}), results.get((data, base.system), {})
    common = sorted(set(ours) & set(theirs))
    differences = tuple(metric(ours[s], row.ranking, name) - metric(theirs[s], base.ranking, name) for s in common)
    if row.system == base.system and base.ranking == BASE and common:
        return _same_weights([ours[s] for s in common], row.ranking, name, differences)
    return Gain(paired_t(differences), differences, "seeds")


def _same_weights(cells: Sequence[CellResult], ranking: str, name: str, differences: tuple[float, ...]) -> Gain:
    names = [cell.own if ranking == OWN else ranking for cell in cells]
    drawn = [cell.delta_draws.get(own, {}).get(name) for cell, own in zip(cells, names, strict=True)]
    kept = [draws for draws in drawn if draws is not None]
    if len(kept) == len(cells):
        estimate = hierarchical(differences, np.array(kept, np.float64) * DRAW_UNIT * POINTS)
        return Gain(estimate, differences, "seeds and images" if len(cells) > 1 else "images")
    if len(cells) > 1:
        return Gain(paired_t(differences), differences, "seeds")
    mean, low, high = (value * POINTS for value in cells[0].rankings[names[0]].delta[name])
    return Gain(Estimate(mean, low, high, float("nan")), differences, "images")

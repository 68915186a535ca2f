"""The primary endpoints as one family: dAP75 and dAP90 of every comparison, with Holm's correction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibox_training.reproduce.plan import Plan
from calibox_training.reproduce.results import BASE
from calibox_training.reproduce.statistics import holm, sign_flip_p
from calibox_training.reproduce.tables import OWN, Gain, Results, Row, Table, gain

PRIMARY = ("AP75", "AP90")
SIGNIFICANT = 0.05
CONTROLS = ("shuffled", "oracle")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One figure of the family."""

    design: str  # A: same weights; B: different training
    data: str
    system: str
    against: str
    metric: str
    gain: Gain
    adjusted_p: float  # Holm's over the family

    @property
    def verdict(self) -> str:
        """What may be said of it."""
        estimate = self.gain.estimate
        if not estimate.excludes_zero:
            return "not resolved"
        what = "gain" if estimate.mean > 0 else "loss"
        reach = " for these weights" if self.gain.seeds == 1 else ""
        if self.adjusted_p < SIGNIFICANT:
            return f"resolved{reach}: {what}"
        return f"{what}{reach} by its own interval, not after Holm's correction"

    @property
    def sign_flip(self) -> float:
        """P-value of the permutation test over seeds."""
        return sign_flip_p(self.gain.differences)


def family(plan: Plan, tables: Sequence[Table], results: Results) -> list[Endpoint]:
    """All primary endpoints that have a figure; a system that ranks by p alone has none of design A."""
    found = [
        (design, data, row, base, name, measured)
        for design, data, row, base in _comparisons(plan, tables)
        if design == "B" or any(cell.own != BASE for cell in results.get((data, row.system), {}).values())
        for name in PRIMARY
        if (measured := gain(results, data, row, base, name)).seeds
    ]
    adjusted = holm([measured.estimate.p for *_, measured in found])
    return [
        Endpoint(design, data, _named(row), _named(base), name, measured, p)
        for (design, data, row, base, name, measured), p in zip(found, adjusted, strict=True)
    ]


def _comparisons(plan: Plan, tables: Sequence[Table]) -> Iterator[tuple[str, str, Row, Row]]:
    """Design A: each system's own ranking against p. Design B: rows of the tables under their system's own ranking."""
    for system in plan.systems:
        for data in system.data:
            own = Row(label=system.name, system=system.name, ranking=OWN)
            yield "A", data, own, own.model_copy(update={"ranking": BASE})
    seen = set()
    for table in tables:
        for row in table.rows:
            base = table.base(row)
            for data in table.data:
                comparison = (data, row.system, base.system)
                if row.system != base.system and comparison not in seen:
                    seen.add(comparison)
                    ours, theirs = (r.model_copy(update={"ranking": OWN}) for r in (row, base))
                    yield "B", data, ours, theirs


def _named(row: Row) -> str:
    return row.system if row.ranking == OWN else f"{row.system} by p"

"""Facts of a training that was never made, for pages of comparisons."""

from calibox_training.reproduce.plan import Plan
from calibox_training.reproduce.results import Trained


def trained_facts(plan: Plan, data: str, system: str, seed: int) -> Trained:
    """Of a cell of the plan, with its recipe's hash."""
    cell = next(c for c in plan.cells() if (c.data, c.system.name, c.seed) == (data, system, seed))
    return Trained(
        data=data,
        system=system,
        seed=seed,
        recipe_hash=cell.recipe_hash,
        commit="0123456789abcdef",
        machine="a machine",
        torch="2",
        accelerator="cpu",
        epochs=1,
        images=100,
        training_seconds=60,
        cell_seconds=90,
        images_per_second=1.7,
        milliseconds_per_image=10,
        finished="2026-01-02T03:04Z",
    )

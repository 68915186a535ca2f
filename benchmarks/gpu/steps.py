"""The steps, and the process that runs one of them: python -m benchmarks.gpu.steps STEP OUTCOME BUILD HOST."""

import importlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.outcome import NothingToDo, Outcome
from benchmarks.gpu.setup import Setup


@dataclass(frozen=True)
class Step:
    """Where a step's code lies: ``function(setup, outcome, *arguments)`` of a module of this package."""

    module: str
    function: str
    seconds_at_most: int
    arguments: tuple[int, ...] = ()


ANCHORS = (8_400, 25_200, 100_000)
STEPS = {
    "environment": Step("environment", "describe", 30),
    "build": Step("build", "compile_all", 100),
    "correctness": Step("correctness", "compare_with_references", 150),
    "graphs": Step("graphs", "capture_and_replay", 40),
    "sanitizers": Step("sanitizers", "watch_replays", 150),
    **{f"timing-{anchors}": Step("postprocessing", "time_anchors", 120, (anchors,)) for anchors in ANCHORS},
    "detector": Step("detector", "share_of_a_detector", 60),
    "pooling": Step("pooling", "time_pooling", 90),
}
# Each below eight minutes, all three below twenty, even where every step runs as long as it may.
GROUPS = {
    "checks": ("environment", "build", "correctness", "graphs", "sanitizers"),
    "timings": ("build", *(f"timing-{anchors}" for anchors in ANCHORS)),
    "models": ("build", "detector", "pooling"),
}


def run(name: str, setup: Setup) -> Outcome:
    """The step, in this process; an exception is its failure."""
    step, outcome = STEPS[name], Outcome()
    try:
        function = getattr(importlib.import_module(f"benchmarks.gpu.{step.module}"), step.function)
        function(setup, outcome, *step.arguments)
    except NothingToDo as reason:
        outcome.status, outcome.why = "skipped", str(reason)
    except Exception:  # whatever it is, the other steps go on
        outcome.status, outcome.why = "failed", traceback.format_exc()[-4000:]
    return outcome


if __name__ == "__main__":
    step_name, part_file, build_folder, on_host = sys.argv[1:]
    here = Setup(host=on_host == "True", build=Path(build_folder), part=Path(part_file))
    here.keep(run(step_name, here))

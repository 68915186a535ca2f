"""Cells as processes, some at once, until all are done or the next one would not end within the budget.

A finished cell is skipped and a killed one goes on from its last checkpoint, so the same command continues a plan.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calibox_core.errors import CaliboxError
from calibox_training.reproduce.cell_run import CELL_FILE, TRAINED_FILE, CellOrder, Trained, write_text
from calibox_training.reproduce.plan import Cell
from calibox_training.run_checkpoints import LAST_CHECKPOINT

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # for a process to end after SIGTERM


class RunnerError(CaliboxError):
    """A plan cannot go on; the text names the folder and what to do."""


@dataclass(slots=True, kw_only=True)
class Runner:
    """Starts cells in their order.

    Args:
        runs: folder below which each cell has its own.
        accelerator: of the trainings.
        processes: cells at once.
        seconds: budget from now on.
        data: folder of a data set where it is not found by its name.
        done: called with the cell and what it left, after each cell of this run.
        say: one line of progress.
    """

    runs: Path
    accelerator: str
    processes: int
    seconds: float
    data: dict[str, str]
    done: Callable[[Cell, Trained], None]
    say: Callable[[str], None]
    running: dict[str, tuple[Cell, "subprocess.Popen[bytes]"]] = field(default_factory=dict)

    def run(self, cells: Sequence[Cell]) -> list[Cell]:
        """Runs what is not finished.

        Returns: cells without a finished run: failed, not started for want of time, or waiting for one of those.
        """
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
        begun = time.monotonic()
        waiting = [cell for cell in cells if finished(cell, self.runs) is None]
        self.say(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished")
        try:
            while waiting or self.running:
                self._collect()
                left = self.seconds - (time.monotonic() - begun)
                while len(self.running) < self.processes:
                    cell = next((c for c in waiting if self._ready(c) and self._fits(c, cells, left)), None)
                    if cell is None:
                        break
                    waiting.remove(cell)
                    self._start(cell)
                if not self.running:
                    break
                time.sleep(POLL_SECONDS)
        finally:
            self._stop()
        return [cell for cell in cells if finished(cell, self.runs) is None]

    def _ready(self, cell: Cell) -> bool:
        source = cell.source(self.runs)
        return source is None or (source / TRAINED_FILE).exists()

    def _fits(self, cell: Cell, cells: Iterable[Cell], left: float) -> bool:
        return left > 0 and expected_seconds(cell, cells, self.runs) <= left

    def _start(self, cell: Cell) -> None:
        folder = cell.folder(self.runs)
        write_text(folder / CELL_FILE, self._order(cell).model_dump_json(indent=2))
        environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if self.accelerator == "cpu" else {})}
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "calibox_training.reproduce.cell_run", str(folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which ends its cells
            )
        self.running[cell.name] = (cell, process)
        self.say(f"{cell.name}: started")

    def _order(self, cell: Cell) -> CellOrder:
        source = cell.source(self.runs)
        return CellOrder(
            data=cell.data,
            system=cell.system.name,
            seed=cell.seed,
            recipe=cell.document,
            base=cell.base,
            recipe_hash=cell.recipe_hash,
            folder=self.data.get(cell.data, cell.recipe.data.name),
            accelerator=self.accelerator,
            start_from=None if source is None else str(source / "checkpoints" / LAST_CHECKPOINT),
        )

    def _collect(self) -> None:
        for name, (cell, process) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            trained = finished(cell, self.runs)
            if process.returncode == 0 and trained is not None:
                self.say(f"{name}: finished in {trained.cell_seconds:.0f} s")
                self.done(cell, trained)
            else:
                log = cell.folder(self.runs) / "log.txt"
                self.say(f"{name}: failed with exit status {process.returncode}; see {log}: {_last_line(log)}")

    def _stop(self) -> None:
        """Ends what still runs; each goes on from its last checkpoint when the command is given again."""
        for _, process in self.running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for _, process in self.running.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.running.clear()


def finished(cell: Cell, runs: Path) -> Trained | None:
    """What a finished cell left, None where it is not finished.

    Raises:
        RunnerError: the folder holds a cell of another recipe.
    """
    folder = cell.folder(runs)
    if (folder / CELL_FILE).exists():
        order = CellOrder.model_validate_json((folder / CELL_FILE).read_bytes())
        if order.recipe_hash != cell.recipe_hash:
            raise RunnerError(
                f"{folder} was begun with another recipe ({order.recipe_hash}) than the plan's ({cell.recipe_hash}): "
                "move it away, or choose another folder with --runs"
            )
    trained = folder / TRAINED_FILE
    return Trained.model_validate_json(trained.read_bytes()) if trained.exists() else None


def expected_seconds(cell: Cell, cells: Iterable[Cell], runs: Path) -> float:
    """Mean of the finished cells of the same system and data; else of the family and data; else of the data; else 0."""
    found = [(other, trained) for other in cells if (trained := finished(other, runs)) is not None]
    same_data = [(other, trained) for other, trained in found if other.data == cell.data]
    family = [(other, trained) for other, trained in same_data if other.system.family == cell.system.family]
    system = [(other, trained) for other, trained in family if other.system.name == cell.system.name]
    for group in (system, family, same_data):
        if group:
            return sum(trained.cell_seconds for _, trained in group) / len(group)
    return 0.0


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it is empty"

"""Cells as processes, some at once, until all are done or the next one would not end within the budget.

A finished cell is skipped and a killed one goes on from its last checkpoint, so the same command continues a plan.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from calibox_core.errors import CaliboxError
from calibox_training.reproduce.cell_run import CELL_FILE, TRAINED_FILE, CellOrder
from calibox_training.reproduce.plan import Cell
from calibox_training.reproduce.results import Trained, read_result, result_path, write_text
from calibox_training.run_checkpoints import LAST_CHECKPOINT

POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0  # for a process to end after SIGTERM


class RunnerError(CaliboxError):
    """A plan cannot go on; the text names the folder and what to do."""


class Result(Protocol):
    """What is read here of a cell's result."""

    @property
    def trained(self) -> Trained:
        """Facts."""
        ...

    @property
    def analysis_seconds(self) -> float:
        """After the training."""
        ...

    @property
    def headline(self) -> float:
        """AP 0..1, for the line that says a cell is finished."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A kind of cells: the module that runs one in its folder, and where and how results are stored."""

    module: str
    result_path: Callable[[Path, str], Path]  # output folder and name of the cell
    read: Callable[[Path], Result]


PAPERS = Comparison(module="calibox_training.reproduce.cell_run", result_path=result_path, read=read_result)


@dataclass(slots=True, kw_only=True)
class Runner:
    """Starts cells in their order.

    Args:
        runs: folder below which each cell has its own.
        output: folder of results.
        accelerator: of the trainings.
        processes: cells at once.
        seconds: budget from now on.
        data: folder of a data set where it is not found by its name.
        say: one line of progress.
        comparison: what the cells are of.
    """

    runs: Path
    output: Path
    accelerator: str
    processes: int
    seconds: float
    data: dict[str, str]
    say: Callable[[str], None]
    comparison: Comparison = PAPERS
    running: dict[str, tuple[Cell, "subprocess.Popen[bytes]"]] = field(default_factory=dict)
    measured: list[tuple[Cell, float]] = field(default_factory=list)  # finished cells and their seconds

    def run(self, cells: Sequence[Cell]) -> list[Cell]:
        """Runs what is not finished.

        Returns: cells without a finished run: failed, not started for want of time, or waiting for one of those.
        """
        waiting = self._unfinished(cells)
        self.say(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished")
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends the cells as Ctrl-C does
        try:
            self._work_off([*self._lost_sources(waiting, cells), *waiting])
        finally:
            self._stop()
            signal.signal(signal.SIGTERM, before)
        return self._unfinished(cells)

    def _work_off(self, waiting: list[Cell]) -> None:
        begun = time.monotonic()
        while waiting or self.running:
            self._collect()
            left = self.seconds - (time.monotonic() - begun)
            while len(self.running) < self.processes:
                cell = next((c for c in waiting if self._ready(c) and self._fits(c, left)), None)
                if cell is None:
                    break
                waiting.remove(cell)
                self._start(cell)
            if not self.running:
                break
            time.sleep(POLL_SECONDS)

    def _unfinished(self, cells: Sequence[Cell]) -> list[Cell]:
        found = [(cell, self._finished(cell)) for cell in cells]
        self.measured = [(cell, _seconds(result)) for cell, result in found if result is not None]
        return [cell for cell, result in found if result is None]

    def _finished(self, cell: Cell) -> Result | None:
        return finished(cell, self.output, self.runs, self.comparison)

    def _lost_sources(self, waiting: Sequence[Cell], cells: Sequence[Cell]) -> list[Cell]:
        """Finished cells whose weights are not here, but wanted by others."""
        wanted = {cell.source(self.runs) for cell in waiting if not trained(cell, self.runs)}
        lost: list[Cell] = []
        for cell in reversed(cells):  # sources stand before those that go on from them
            if cell not in waiting and cell.folder(self.runs) in wanted and not trained(cell, self.runs):
                lost.insert(0, cell)
                wanted.add(cell.source(self.runs))
        return lost

    def _ready(self, cell: Cell) -> bool:
        source = cell.source(self.runs)
        return source is None or (source / TRAINED_FILE).exists()

    def _fits(self, cell: Cell, left: float) -> bool:
        """What is trained is analysed even when the budget is used up: minutes at most."""
        return trained(cell, self.runs) or 0 < left >= expected_seconds(cell, self.measured)

    def _start(self, cell: Cell) -> None:
        folder = cell.folder(self.runs)
        write_text(folder / CELL_FILE, self._order(cell).model_dump_json(indent=2))
        environment = {**os.environ, **({"OMP_NUM_THREADS": "1"} if self.accelerator == "cpu" else {})}
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", self.comparison.module, str(folder)],
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
            folder=self.data.get(cell.data, cell.data_name),
            accelerator=self.accelerator,
            start_from=None if source is None else str(source / "checkpoints" / LAST_CHECKPOINT),
            result=str(self.comparison.result_path(self.output, cell.name)),
        )

    def _collect(self) -> None:
        for name, (cell, process) in list(self.running.items()):
            if process.poll() is None:
                continue
            del self.running[name]
            result = self._finished(cell)
            if process.returncode == 0 and result is not None:
                self.measured.append((cell, _seconds(result)))
                seconds = result.trained.cell_seconds
                self.say(
                    f"{name}: AP {result.headline:.4f}, trained in {seconds:.0f} s, "
                    f"analysed in {result.analysis_seconds:.0f} s"
                )
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


def finished(cell: Cell, output: Path, runs: Path, comparison: Comparison = PAPERS) -> Result | None:
    """Result of a cell, None where it has none of this recipe.

    Raises:
        RunnerError: its folder holds a training of another recipe.
    """
    path = comparison.result_path(output, cell.name)
    if path.exists():
        result = comparison.read(path)
        if result.trained.recipe_hash == cell.recipe_hash:
            return result
    begun = cell.folder(runs) / CELL_FILE
    if begun.exists():
        order = CellOrder.model_validate_json(begun.read_bytes())
        if order.recipe_hash != cell.recipe_hash:
            raise RunnerError(
                f"{begun.parent} was begun with another recipe ({order.recipe_hash}) than the plan's "
                f"({cell.recipe_hash}): move it away, or choose another folder with --runs"
            )
    return None


def trained(cell: Cell, runs: Path) -> bool:
    """Is it ready for analysis?"""
    return (cell.folder(runs) / TRAINED_FILE).exists()


def expected_seconds(cell: Cell, measured: Sequence[tuple[Cell, float]]) -> float:
    """Mean of the finished cells of the same system and data; else of the family and data; else of the data; else 0.

    Args:
        cell: to be trained.
        measured: finished cells and the seconds that training and analysis took.
    """
    data = [(other, seconds) for other, seconds in measured if other.data == cell.data]
    family = [(other, seconds) for other, seconds in data if other.system.family == cell.system.family]
    system = [(other, seconds) for other, seconds in family if other.system.name == cell.system.name]
    nearest = next((group for group in (system, family, data) if group), [])
    return sum(seconds for _, seconds in nearest) / max(1, len(nearest))


def _seconds(result: Result) -> float:
    return result.trained.cell_seconds + result.analysis_seconds


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it is empty"

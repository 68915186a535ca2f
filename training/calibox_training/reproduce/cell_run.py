"""One cell in a process of its own: `python -m calibox_training.reproduce.cell_run FOLDER`.

The folder holds `cell.json`, which says everything: later changes of a plan do not touch a cell that has begun. The
process trains (or goes on from the last checkpoint), writes the raw outputs of the validation split and then
`trained.json`, whose presence means that it is trained; its result follows from these files.
"""

import fcntl
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from pydantic import Field

from calibox_core.cpu import cpu_name
from calibox_core.dataset import DataFolder
from calibox_core.layouts import open_dataset
from calibox_training.checkpoint import DETECTOR_PREFIX, METADATA_KEY, current_commit, load_checkpoint
from calibox_training.data.coco import read_classes
from calibox_training.models.detector import Detector
from calibox_training.parts import Part
from calibox_training.recipe import Recipe, parse_recipe
from calibox_training.reproduce.analysis import analyse
from calibox_training.reproduce.raw import evaluate_raw
from calibox_training.reproduce.results import Trained, write_text
from calibox_training.run_checkpoints import LAST_CHECKPOINT
from calibox_training.train import RunSettings, train
from calibox_training.training_spec import Schedule

CELL_FILE, TRAINED_FILE, RAW_FILE, STARTS_FILE = "cell.json", "trained.json", "raw.npz", "starts.json"
START_FILE, LOCK_FILE = "start.ckpt", "lock"


class CellOrder(Part):
    """What a cell's process is told."""

    data: str
    system: str
    seed: int
    recipe: dict[str, Any] = Field(description="Document of its recipe.")
    base: dict[str, Any] = Field(description="Document of the recipe whose fresh weights it shares.")
    recipe_hash: str
    folder: str = Field(description="Data set: a folder, or a name below CALIBOX_DATA.")
    accelerator: str
    start_from: str | None = Field(description="Checkpoint that it goes on from.")
    result: str | None = Field(default=None, description="Where its result goes; none: it is not analysed.")


def main() -> None:
    """Runs the cell of the folder on the command line."""
    run_alone(Path(sys.argv[1]), run_cell)


def run_alone(folder: Path, work: Callable[[Path, CellOrder], object]) -> None:
    """Does the work that the folder's `cell.json` asks for, on one thread of a CPU, unless another process does."""
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"another process works in {folder}: wait for it, or end it")
        order = CellOrder.model_validate_json((folder / CELL_FILE).read_bytes())
        if order.accelerator == "cpu":
            torch.set_num_threads(1)
        work(folder, order)


def run_cell(folder: Path, order: CellOrder) -> Trained:
    """Trains, evaluates and analyses; what an earlier process finished stays."""
    recipe = parse_recipe(order.recipe, source=f"the recipe in {folder / CELL_FILE}")
    data = open_dataset(order.folder, recipe.data)
    path = folder / TRAINED_FILE
    trained = Trained.model_validate_json(path.read_bytes()) if path.exists() else _trained(folder, order, recipe, data)
    if order.result is not None:
        model = load_checkpoint(folder / "checkpoints" / LAST_CHECKPOINT)
        write_text(Path(order.result), analyse(trained, model, data, folder / RAW_FILE).model_dump_json())
    return trained


def _trained(folder: Path, order: CellOrder, recipe: Recipe, data: DataFolder) -> Trained:
    checkpoint = folder / "checkpoints" / LAST_CHECKPOINT
    starts = Starts(folder / STARTS_FILE, checkpoint)
    starts.begin()
    begun = checkpoint.exists()
    before = time.process_time()
    if not (folder / "metrics.json").exists():
        _train(folder, order, recipe, data)
    training_seconds, processor_seconds = starts.seconds(), time.process_time() - before
    milliseconds = evaluate_raw(load_checkpoint(checkpoint), data, folder / RAW_FILE, accelerator=order.accelerator)
    trained = facts(
        order,
        recipe.schedule,
        train_images=data.image_count("train"),
        training_seconds=training_seconds,
        cell_seconds=starts.seconds(),
        processor_seconds=None if begun else processor_seconds,
        milliseconds=milliseconds,
    )
    write_text(folder / TRAINED_FILE, trained.model_dump_json(indent=2))
    return trained


def facts(
    order: CellOrder,
    schedule: Schedule,
    *,
    train_images: int,
    training_seconds: float,
    cell_seconds: float,
    processor_seconds: float | None,
    milliseconds: float,
) -> Trained:
    """What is kept of a training that came to its end now."""
    images = max(1, train_images // schedule.batch_size) * schedule.batch_size * schedule.epochs
    return Trained(
        data=order.data,
        system=order.system,
        seed=order.seed,
        recipe_hash=order.recipe_hash,
        commit=current_commit(),
        machine=machine_name(order.accelerator),
        torch=torch.__version__,
        accelerator=order.accelerator,
        epochs=schedule.epochs,
        images=images,
        training_seconds=round(training_seconds, 1),
        cell_seconds=round(cell_seconds, 1),
        images_per_second=round(images / training_seconds, 2),
        processor_seconds=None if processor_seconds is None else round(processor_seconds, 1),
        milliseconds_per_image=round(milliseconds, 2),
        finished=time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    )


def _train(folder: Path, order: CellOrder, recipe: Recipe, data: DataFolder) -> None:
    last = folder / "checkpoints" / LAST_CHECKPOINT
    resume = last if last.exists() else None
    start = None if resume else Path(order.start_from) if order.start_from else _shared_start(folder, order, data)
    settings = RunSettings(
        output=folder, accelerator=order.accelerator, workers=1, resume=resume, init_from=start, progress=False
    )
    train(recipe, data, settings)


def _shared_start(folder: Path, order: CellOrder, data: DataFolder) -> Path:
    """Fresh weights of the family's base recipe, wherever this cell's detector has a tensor of that name and shape.

    The draws of a fresh detector depend on which modules it has; so the systems of a family and seed start alike.
    """
    classes = read_classes(data.annotations("train"))
    seed_everything(order.seed, workers=True, verbose=False)
    common = Detector(parse_recipe(order.base, source="the base recipe").model, classes=len(classes)).state_dict()
    own = Detector(parse_recipe(order.recipe, source="the recipe").model, classes=len(classes)).state_dict()
    shared = {name: value for name, value in common.items() if name in own and own[name].shape == value.shape}
    state = {f"{DETECTOR_PREFIX}{name}": value for name, value in shared.items()}
    torch.save({METADATA_KEY: {}, "state_dict": state}, folder / START_FILE)
    return folder / START_FILE


class Starts:
    """Seconds that a cell took, over all its processes: a killed one counts up to its last checkpoint."""

    def __init__(self, path: Path, checkpoint: Path) -> None:
        self.path = path
        self.checkpoint = checkpoint
        self.earlier: list[float] = json.loads(path.read_bytes()) if path.exists() else []

    def begin(self) -> None:
        """Closes what an earlier process left open, and notes this one's start."""
        self.start = time.time()
        if self.earlier and self.earlier[-1] > 0:
            began = self.earlier.pop()
            end = self.checkpoint.stat().st_mtime if self.checkpoint.exists() else began
            self.earlier.append(-max(0.0, end - began))
        write_text(self.path, json.dumps([*self.earlier, self.start]))

    def seconds(self) -> float:
        """So far; closed spans are stored as negative seconds, the open one as the time of its start."""
        return -sum(self.earlier) + time.time() - self.start


def machine_name(accelerator: str) -> str:
    """Processor or GPU, and the number of cores."""
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return cpu_name()


if __name__ == "__main__":
    main()

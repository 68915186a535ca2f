"""One cell in a process of its own: `python -m calibox_training.reproduce_iou_net.cell_run FOLDER`.

The folder holds `cell.json`. The process trains the detector below `detector/` (or goes on from its last checkpoint),
then a predictor below `predictor/` (a stopped one begins again), writes the raw outputs of the validation split and
then `trained.json`, whose presence means that it is trained; its result follows from these files.
"""

import json
import shutil
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from calibox_core.dataset import DataFolder
from calibox_core.layouts import open_dataset
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.predictor_checkpoint import load_predictor
from calibox_training.iou_net.standalone import StandaloneSettings, train_on_features
from calibox_training.machine import device_type
from calibox_training.reproduce.cell_run import (
    CELL_FILE,
    RAW_FILE,
    STARTS_FILE,
    TRAINED_FILE,
    CellOrder,
    Starts,
    facts,
    run_alone,
)
from calibox_training.reproduce.results import Trained, write_text
from calibox_training.reproduce_iou_net.analysis import PredictorFacts, analyse
from calibox_training.reproduce_iou_net.cell_recipe import CellRecipe, PredictorRecipe, parse_cell
from calibox_training.reproduce_iou_net.detectors import Loaded, load_detector, parse_detector, train_detector
from calibox_training.reproduce_iou_net.raw import Judge, evaluate_raw
from calibox_training.reproduce_iou_net.speed import seconds_per_image
from calibox_training.run_checkpoints import LAST_CHECKPOINT
from calibox_training.train import METRICS

DETECTOR, PREDICTOR = "detector", "predictor"  # folders of the two trainings
PREDICTOR_SECONDS = "seconds.json"
TIMED_IMAGES = 30


class Opened(NamedTuple):
    """A trained cell."""

    recipe: CellRecipe
    loaded: Loaded
    judge: Judge


def main() -> None:
    """Runs the cell of the folder on the command line."""
    run_alone(Path(sys.argv[1]), run_cell)


def run_cell(folder: Path, order: CellOrder) -> Trained:
    """Trains, evaluates and analyses; what an earlier process finished stays."""
    recipe = parse_cell(order.recipe, source=f"the recipe in {folder / CELL_FILE}")
    data = open_dataset(order.folder, recipe.data)
    path = folder / TRAINED_FILE
    trained = Trained.model_validate_json(path.read_bytes()) if path.exists() else _trained(folder, order, recipe, data)
    if order.result is not None:
        system = open_cell(folder, order).judge.system
        result = analyse(trained, _predictor_facts(folder), system, data, folder / RAW_FILE)
        write_text(Path(order.result), result.model_dump_json())
    return trained


def open_cell(folder: Path, order: CellOrder) -> Opened:
    """The detector of a trained cell with its predictor, in eval mode."""
    recipe = parse_cell(order.recipe, source=f"the recipe in {folder / CELL_FILE}")
    device = torch.device(device_type(order.accelerator))
    loaded = load_detector(recipe.detector_document, folder / DETECTOR, device)
    predictor = _predictor(folder, recipe, loaded).to(device).requires_grad_(False)
    return Opened(recipe, loaded, Judge(loaded.system, predictor, recipe.refinement))


def _trained(folder: Path, order: CellOrder, recipe: CellRecipe, data: DataFolder) -> Trained:
    checkpoint = folder / DETECTOR / "checkpoints" / LAST_CHECKPOINT
    starts = Starts(folder / STARTS_FILE, checkpoint)
    starts.begin()
    begun, before = checkpoint.exists(), time.process_time()
    schedule = parse_detector(recipe.detector_document, source=f"the detector of {folder}").schedule
    train_detector(recipe.detector_document, data, folder / DETECTOR, accelerator=order.accelerator)
    if recipe.predictor is not None:
        _train_predictor(folder, order, recipe, recipe.predictor, data)
    training_seconds, processor_seconds = starts.seconds(), time.process_time() - before
    judge = open_cell(folder, order).judge
    device = torch.device(device_type(order.accelerator))
    evaluate_raw(judge, data, folder / RAW_FILE, device=device)
    trained = facts(
        order,
        schedule,
        train_images=data.image_count("train"),
        training_seconds=training_seconds,
        cell_seconds=starts.seconds(),
        processor_seconds=None if begun else processor_seconds,
        milliseconds=1000 * seconds_per_image(judge, data, images=TIMED_IMAGES, device=device),
    )
    write_text(folder / TRAINED_FILE, trained.model_dump_json(indent=2))
    return trained


def _train_predictor(
    folder: Path, order: CellOrder, recipe: CellRecipe, predictor: PredictorRecipe, data: DataFolder
) -> None:
    own = folder / PREDICTOR
    if (own / METRICS).exists():
        return
    shutil.rmtree(own, ignore_errors=True)  # of a process that was stopped: minutes, and not resumed
    start = time.monotonic()
    device = torch.device(device_type(order.accelerator))
    loaded = load_detector(recipe.detector_document, folder / DETECTOR, device)
    settings = StandaloneSettings(
        output=own,
        schedule=predictor.schedule,
        jitter=predictor.jitter,
        predictor=predictor.network,
        seed=order.seed,
        accelerator=order.accelerator,
        workers=1,
    )
    train_on_features(loaded.system.features, loaded.reads, data, settings)
    write_text(own / PREDICTOR_SECONDS, json.dumps(time.monotonic() - start))


def _predictor(folder: Path, recipe: CellRecipe, loaded: Loaded) -> IouPredictor:
    """The one trained here, or the detector's own.

    Raises:
        ValueError: there is neither: the cell's recipe asks for no training and its detector has no branch.
    """
    if recipe.predictor is not None:
        return load_predictor(folder / PREDICTOR / "checkpoints" / LAST_CHECKPOINT)
    if loaded.predictor is None:
        raise ValueError(f"{recipe.name} trains no predictor, and its detector has none: give it either")
    return loaded.predictor


def _predictor_facts(folder: Path) -> PredictorFacts:
    own = folder / PREDICTOR
    if not (own / METRICS).exists():
        return PredictorFacts({}, 0.0)
    return PredictorFacts(json.loads((own / METRICS).read_bytes()), json.loads((own / PREDICTOR_SECONDS).read_bytes()))


if __name__ == "__main__":
    main()

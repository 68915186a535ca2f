"""Detectors of every kind that a cell may name: trained, and read again as what IoU-Net sees of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from calibox_core.dataset import DataFolder
from calibox_training.checkpoint import load_checkpoint
from calibox_training.iou_net.predictor import IouPredictor
from calibox_training.iou_net.predictor_checkpoint import Reads
from calibox_training.iou_net.systems import BoxSystem, SingleStageSystem
from calibox_training.rcnn.checkpoint import load_rcnn
from calibox_training.rcnn.recipe import parse_rcnn
from calibox_training.rcnn.system import RcnnSystem
from calibox_training.rcnn.train import train_rcnn
from calibox_training.recipe import RunRecipe, kind_of, parse_recipe
from calibox_training.run_checkpoints import LAST_CHECKPOINT
from calibox_training.train import METRICS, RunSettings, train


class Loaded(NamedTuple):
    """A trained detector in eval mode."""

    system: BoxSystem
    reads: Reads
    predictor: IouPredictor | None  # of its own, trained jointly


@dataclass(frozen=True, slots=True)
class Kind:
    """How detectors of a kind of recipe are made."""

    parse: Callable[[Any, str], RunRecipe]  # document, and what to call it in errors
    train: Callable[[Any, DataFolder, RunSettings], object]  # the recipe that `parse` gave
    load: Callable[[Path, torch.device], Loaded]


def parse_detector(document: Mapping[str, Any], *, source: str) -> RunRecipe:
    """The detector's recipe.

    Raises:
        RecipeError: the document is of no known kind, or not valid.
    """
    return _kind(document).parse(document, source)


def train_detector(document: Mapping[str, Any], data: DataFolder, folder: Path, *, accelerator: str) -> None:
    """Trains into the folder, or goes on from the last checkpoint there; nothing where it came to its end."""
    if (folder / METRICS).exists():
        return
    last = folder / "checkpoints" / LAST_CHECKPOINT
    resume = last if last.exists() else None
    settings = RunSettings(output=folder, accelerator=accelerator, workers=1, resume=resume, progress=False)
    kind = _kind(document)
    kind.train(kind.parse(document, f"the detector of {folder}"), data, settings)


def load_detector(document: Mapping[str, Any], folder: Path, device: torch.device) -> Loaded:
    """What `train_detector` left in the folder."""
    return _kind(document).load(folder / "checkpoints" / LAST_CHECKPOINT, device)


def _load_single_stage(path: Path, device: torch.device) -> Loaded:
    model = load_checkpoint(path)
    model.detector.requires_grad_(False).to(device)
    system = SingleStageSystem(model)
    reads = Reads(features=system.features.channels, classes=model.classes, recipe=model.recipe, commit=model.commit)
    return Loaded(system, reads, None)


def _load_two_stage(path: Path, device: torch.device) -> Loaded:
    model = load_rcnn(path)
    model.detector.requires_grad_(False).to(device)
    system = RcnnSystem(model)
    reads = Reads(features=system.features.channels, classes=model.classes, recipe=model.recipe, commit=model.commit)
    return Loaded(system, reads, system.predictor)


def _parse_two_stage(document: Any, source: str) -> RunRecipe:
    return parse_rcnn(document, source=source)


def _parse_single_stage(document: Any, source: str) -> RunRecipe:
    return parse_recipe(document, source=source)


# By what the document says of its kind.
KINDS: dict[Any, Kind] = {
    None: Kind(_parse_single_stage, train, _load_single_stage),
    "rcnn": Kind(_parse_two_stage, train_rcnn, _load_two_stage),
}


def _kind(document: Mapping[str, Any]) -> Kind:
    return KINDS.get(kind_of(document), KINDS[None])

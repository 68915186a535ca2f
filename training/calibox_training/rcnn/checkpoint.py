"""Checkpoints of two-stage detectors: weights and plain values, as those of `calibox_training.checkpoint`."""

from dataclasses import dataclass
from pathlib import Path

from calibox_core.manifest import ClassInfo, DatasetInfo
from calibox_training.checkpoint import METADATA_KEY, CheckpointError, detector_weights, fill, read_saved
from calibox_training.rcnn.detector import RcnnDetector
from calibox_training.rcnn.recipe import RcnnRecipe, parse_rcnn
from calibox_training.recipe import kind_of


@dataclass(frozen=True, slots=True)
class RcnnModel:
    """A two-stage detector in eval mode, and where it comes from."""

    detector: RcnnDetector
    recipe: RcnnRecipe
    classes: tuple[ClassInfo, ...]
    dataset: DatasetInfo
    commit: str
    metrics: dict[str, float | None]


def load_rcnn(path: Path) -> RcnnModel:
    """Reads a checkpoint that `calibox train` wrote by a recipe of kind ``rcnn``.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    saved = read_saved(path, METADATA_KEY, otherwise="was not written by `calibox train`: it carries no recipe")
    facts = saved[METADATA_KEY]
    if kind_of(facts["recipe"]) != "rcnn":
        raise CheckpointError(f"{path} holds a single-stage detector; `load_checkpoint` reads it")
    recipe = parse_rcnn(facts["recipe"], source=f"the recipe in {path}")
    classes = tuple(ClassInfo.model_validate(c) for c in facts["classes"])
    # The weights follow from the file itself; the backbone's starting point is not needed again.
    detector = RcnnDetector(recipe.model.model_copy(update={"backbone_weights": "none"}), classes=len(classes))
    fill(detector, detector_weights(saved), path)
    return RcnnModel(
        detector=detector.eval(),
        recipe=recipe,
        classes=classes,
        dataset=DatasetInfo.model_validate(facts["dataset"]),
        commit=facts["commit"],
        metrics=facts["metrics"],
    )

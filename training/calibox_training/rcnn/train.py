"""A training run of a two-stage detector."""

from calibox_core.dataset import DataFolder
from calibox_training.data.coco import describe_dataset
from calibox_training.data.module import CocoDataModule
from calibox_training.machine import RunError
from calibox_training.rcnn.masks import MaskDataModule
from calibox_training.rcnn.module import RcnnModule
from calibox_training.rcnn.recipe import RcnnRecipe
from calibox_training.rcnn.torchvision_names import initialise_rcnn
from calibox_training.train import RunSettings, TrainingResult, fit, prepare, warn_of_fresh


def train_rcnn(recipe: RcnnRecipe, folder: DataFolder, settings: RunSettings) -> TrainingResult:
    """`calibox_training.train.train` for a recipe of kind ``rcnn``: the same files, resuming and processes.

    Raises:
        RunError: see `prepare`; or compiling was asked for.
        DatasetError: see `CocoDataModule.check`.
    """
    if settings.compile:
        raise RunError("--compile is for single-stage detectors: leave it out, the proposals' number changes")
    kind = MaskDataModule if recipe.model.detector == "mask" else CocoDataModule
    data = prepare(recipe, folder, settings, kind)
    module = RcnnModule(recipe, data, describe_dataset(recipe.data, folder))
    if settings.init_from is not None:
        warn_of_fresh(initialise_rcnn(module.detector, settings.init_from, data.classes), settings.init_from)
    return fit(module, settings)

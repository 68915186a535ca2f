"""Every recipe that ships, at its full depth and width and a reduced input, exported and verified by command."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import DETECTOR_PREFIX, METADATA_KEY, metadata
from calibox_training.data.coco import describe_dataset, read_classes
from calibox_training.models.detector import Detector
from calibox_training.recipe import Recipe, load_recipe, with_overrides
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.full_size import BASELINES, reduced, settle
from tests.support.recipes import shipped

pytestmark = pytest.mark.slow  # up to a minute each on two cores: ResNeXt-101 has 83 million weights

# Blocks that change little, as trained ones: a hundred random layers would make pixels of a rounding.
RESIDUAL_SCALES = ("bn3.weight",)
RESIDUAL_SCALE = 0.1
# Scores all over 0..1, and boxes that stay near their anchors.
PREDICTOR_DEVIATION = 0.01
RECIPES = shipped()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles")


def _checkpoint(recipe: Recipe, folder: CocoFolder, path: Path) -> Path:
    """As `calibox train` leaves one, of random weights whose scores lie apart: trained ones would take a GPU."""
    torch.manual_seed(0)
    classes = read_classes(folder.annotations("train"))
    detector = Detector(recipe.model, classes=len(classes))
    for name, parameter in detector.backbone.named_parameters():
        if name.endswith(RESIDUAL_SCALES):
            nn.init.constant_(parameter, RESIDUAL_SCALE)
    settle(detector, height=recipe.input.height, width=recipe.input.width)
    for name, parameter in detector.head.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.dim() == 4 and "tower" in name:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.dim() == 4:
            nn.init.normal_(parameter, std=PREDICTOR_DEVIATION)
    facts = metadata(recipe, classes, describe_dataset(recipe.data, folder), "unknown", {})
    state = {f"{DETECTOR_PREFIX}{name}": value for name, value in detector.state_dict().items()}
    torch.save({METADATA_KEY: facts, "state_dict": state}, path)
    return path


def _export_and_verify(recipe: Recipe, folder: CocoFolder, tmp_path: Path, calibox: CommandLine) -> None:
    checkpoint = _checkpoint(recipe, folder, tmp_path / "last.ckpt")
    done = calibox("export", checkpoint, "--output", tmp_path / "models", "--name", "full")
    assert done.code == 0, done.out + done.err
    options: tuple[Any, ...] = ("--checkpoint", checkpoint, "--data", folder.root, "--images", 4, "--json")
    done = calibox("verify", tmp_path / "models" / "full" / "1", *options)
    report = json.loads(done.out)
    assert (done.code, report["same"], report["torch_compared"]) == (0, True, True), done.out
    assert all(line["compared"] > 0 for line in report["comparisons"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_exported_and_gives_the_same_answer(
    name: str, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    recipe = reduced(load_recipe(name))
    # The rectangles stand in for the data set, whatever its layout.
    recipe = with_overrides(recipe, {"data": {"name": "rectangles"}})
    _export_and_verify(recipe, folder, tmp_path, calibox)


@pytest.mark.parametrize("backbone", BASELINES)
def test_the_baseline_is_exported_with_each_backbone(
    backbone: str, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    recipe = reduced(load_recipe("iou_aware_retinanet_r50"))
    _export_and_verify(with_overrides(recipe, {"model.backbone": backbone}), folder, tmp_path, calibox)

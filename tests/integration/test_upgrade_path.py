"""A detector of torchvision's gains a localization score: its weights, one branch trained, a bundle that verifies."""

from pathlib import Path

import pytest
import torch
from torchvision.models.detection import RetinaNet, ssd300_vgg16
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import load_checkpoint
from calibox_training.machine import RunError
from calibox_training.recipe import load_recipe, with_overrides
from calibox_training.torchvision_names import translate
from calibox_training.train import RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.recipes import tiny_recipe
from tests.support.systems import system

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

FROZEN = ["backbone", "fpn", "head.class_tower", "head.class_conv", "head.box_tower", "head.box_conv"]
SSD_FROZEN = ["backbone", "ssd", "head.class_convs", "head.box_convs"]
RECIPE = {
    "model__backbone": "resnet18",
    "model__fpn_channels": 256,  # torchvision's towers have as many
    "model__tower_depth": 4,
    "model__norm": "none",
    "model__pyramid_top": "p5",
    "model__anchors": {"offset": 0.0, "whole_pixels": True},
    "schedule__epochs": 1,
    "schedule__freeze": FROZEN,
}


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return make_coco_folder(tmp_path / "rectangles", train=4, val=2)


def _save_theirs(path: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    state: dict[str, torch.Tensor] = RetinaNet(backbone, num_classes=3).state_dict()
    torch.save(state, path)
    return state


def test_only_the_quality_branch_of_torchvisions_detector_is_trained_and_it_exports(
    tmp_path: Path, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = _save_theirs(tmp_path / "theirs.pth")
    settings = RunSettings(
        output=tmp_path / "run", accelerator="cpu", workers=0, progress=False, init_from=tmp_path / "theirs.pth"
    )
    checkpoint = train(tiny_recipe(**RECIPE), folder, settings).checkpoint
    ours = load_checkpoint(checkpoint).detector.state_dict()
    assert torch.equal(ours["head.box_conv.weight"], theirs["head.regression_head.bbox_reg.weight"])
    for name, value in ours.items():
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked"):
            assert torch.equal(value, theirs[name.replace("backbone.", "backbone.body.", 1)]), name
    assert (ours["head.quality_conv.bias"] != 0).any()
    calibox = CommandLine(monkeypatch, capsys)
    exported = calibox("export", checkpoint, "--output", tmp_path / "models")
    assert exported.code == 0, exported.out + exported.err
    bundle = tmp_path / "models" / "tiny" / "1"
    verified = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", folder.root, "--images", 2)
    assert verified.code == 0, verified.out + verified.err


@pytest.mark.slow  # VGG16 at its full width, in training, export and verification
@pytest.mark.timeout(900)
def test_only_the_locscore_branch_of_torchvisions_ssd_is_trained_and_it_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    folder = make_coco_folder(tmp_path / "rectangles", train=2, val=1)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.save(theirs, tmp_path / "theirs.pth")
    recipe = with_overrides(
        load_recipe("torchvision_ssd300"),
        {"schedule.epochs": 1, "schedule.milestones": [], "schedule.batch_size": 2, "schedule.warmup_iterations": 0},
    )
    settings = RunSettings(
        output=tmp_path / "run", accelerator="cpu", workers=0, progress=False, init_from=tmp_path / "theirs.pth"
    )
    checkpoint = train(recipe, folder, settings).checkpoint
    ours = load_checkpoint(checkpoint).detector.state_dict()
    wanted = translate(theirs, recipe.model, load_checkpoint(checkpoint).classes)
    assert all(torch.equal(ours[name], value) for name, value in wanted.items())
    assert set(ours) - set(wanted) == {
        f"head.quality_convs.{i}.{part}" for i in range(6) for part in ("weight", "bias")
    }
    assert (ours["head.quality_convs.1.bias"] != 0).any()
    calibox = CommandLine(monkeypatch, capsys)
    exported = calibox("export", checkpoint, "--output", tmp_path / "models")
    assert exported.code == 0, exported.out + exported.err
    bundle = tmp_path / "models" / recipe.name / "1"
    verified = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", folder.root, "--images", 1)
    assert verified.code == 0, verified.out + verified.err


def test_a_second_stage_of_ssd_moves_its_branch_alone(tmp_path: Path, folder: CocoFolder) -> None:
    common = {"accelerator": "cpu", "workers": 0, "progress": False}
    first = train(system("laar_ssd", schedule__epochs=1), folder, RunSettings(output=tmp_path / "first", **common))  # type: ignore[arg-type]
    before = load_checkpoint(first.checkpoint).detector.state_dict()
    second = system("laar_ssd", schedule__epochs=1, schedule__freeze=SSD_FROZEN)
    settings = RunSettings(output=tmp_path / "second", init_from=first.checkpoint, **common)  # type: ignore[arg-type]
    after = load_checkpoint(train(second, folder, settings).checkpoint).detector.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("head.quality_convs.") for name in moved)


def test_starting_from_and_resuming_exclude_each_other(tmp_path: Path, folder: CocoFolder) -> None:
    both = RunSettings(output=tmp_path / "run", init_from=tmp_path / "a", resume=tmp_path / "b")
    with pytest.raises(RunError, match="leave out --init-from"):
        train(tiny_recipe(), folder, both)


def test_a_second_stage_starts_from_the_checkpoint_of_the_first(tmp_path: Path, folder: CocoFolder) -> None:
    recipe = tiny_recipe(schedule__epochs=1)
    common = {"accelerator": "cpu", "workers": 0, "progress": False}
    first = train(recipe, folder, RunSettings(output=tmp_path / "first", **common))  # type: ignore[arg-type]
    before = load_checkpoint(first.checkpoint).detector.state_dict()
    second = tiny_recipe(schedule__epochs=1, schedule__freeze=FROZEN)
    settings = RunSettings(output=tmp_path / "second", init_from=first.checkpoint, **common)  # type: ignore[arg-type]
    after = load_checkpoint(train(second, folder, settings).checkpoint).detector.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"head.quality_conv.weight", "head.quality_conv.bias"}

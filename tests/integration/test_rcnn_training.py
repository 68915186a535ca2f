"""Two-stage detectors trained by command: checkpoints, resuming, and eight pictures by heart."""

from pathlib import Path
from typing import Any

import pytest
import torch

from calibox_core.dataset import CocoFolder
from calibox_training.checkpoint import METADATA_KEY, CheckpointError, load_checkpoint
from calibox_training.iou_net.systems import BoxSystem
from calibox_training.machine import RunError
from calibox_training.rcnn.checkpoint import load_rcnn
from calibox_training.rcnn.recipe import RcnnRecipe
from calibox_training.rcnn.system import RcnnSystem
from calibox_training.rcnn.train import train_rcnn
from calibox_training.recipe import RecipeError
from calibox_training.run_module import PROGRESS_KEY
from calibox_training.train import RunSettings, TrainingResult, train
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.data import dataset, first_images
from tests.support.interruption import assert_equal, train_until_killed, write_recipe
from tests.support.recipes import tiny_recipe
from tests.support.two_stage import tiny_rcnn

# Lightning's advice for machines with many cores; a run of twelve images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

LEARNT = 0.9  # AP50 on the pictures themselves
EPOCHS = 120  # of two steps
SHORT: dict[str, Any] = {"schedule__batch_size": 2, "schedule__validate_every": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles", train=12)


def _train(recipe: RcnnRecipe, folder: CocoFolder, output: Path, **settings: Any) -> TrainingResult:
    chosen = RunSettings(output=output, accelerator="cpu", workers=0, progress=False, **settings)
    return train_rcnn(recipe, folder, chosen)


def test_two_steps_by_command_leave_a_checkpoint_that_is_read_and_run(
    folder: CocoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_rcnn(schedule__batch_size=2, schedule__epochs=1)
    path = write_recipe(recipe, tmp_path / "mine.yaml")
    options = ("--output", tmp_path / "run", "--accelerator", "cpu", "--workers", 0, "--no-progress")
    calibox = CommandLine(monkeypatch, capsys)
    done = calibox("train", path, "--data", folder.root, *options, "--max-steps", 2)
    assert done.code == 0, done.err
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert str(checkpoint) in done.out
    model = load_rcnn(checkpoint)
    assert model.recipe == recipe
    assert [one.name for one in model.classes] == ["red", "blue"]
    system: BoxSystem = RcnnSystem(model)
    images = torch.randint(0, 256, (2, 96, 128, 3), dtype=torch.uint8)
    found = system.candidates(images)
    moved = system.regress(images, found)
    assert moved is not None
    assert moved.boxes_R4.shape == found.boxes_R4.shape
    assert system.features.maps(images).pixels_MF.shape[1] == system.features.channels == 16
    assert not system.features.maps(images).pixels_MF.requires_grad
    assert RcnnSystem(model).predictor is model.detector.predictor is not None
    with pytest.raises(RecipeError, match="is of kind rcnn"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(("detector", "branch"), [("faster", True), ("cascade", False)])
def test_a_run_ends_with_metrics_in_its_checkpoint(
    detector: str, branch: bool, folder: CocoFolder, tmp_path: Path
) -> None:
    done = _train(tiny_rcnn(detector, branch=branch, schedule__epochs=1), folder, tmp_path / "run")
    model = load_rcnn(done.checkpoint)
    assert model.metrics == done.metrics
    assert 0 <= (done.metrics["AP"] or 0) <= 1
    assert (model.detector.predictor is None) == (not branch)


def test_a_killed_run_that_goes_on_ends_as_if_nothing_had_been(folder: CocoFolder, tmp_path: Path) -> None:
    recipe = tiny_rcnn(**SHORT, schedule__checkpoint_every=2, augmentation__crop=0.5)
    whole = torch.load(_train(recipe, folder, tmp_path / "whole").checkpoint, weights_only=True)
    train_until_killed(recipe, folder, tmp_path / "killed", batches=3)
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    resumed = torch.load(_train(recipe, folder, tmp_path / "killed", resume=last).checkpoint, weights_only=True)
    for key in ("epoch", "global_step", "state_dict", "optimizer_states", "lr_schedulers", PROGRESS_KEY):
        assert_equal(resumed[key], whole[key], key)
    assert resumed[METADATA_KEY]["metrics"] == whole[METADATA_KEY]["metrics"]


def test_a_stage_starts_from_the_checkpoint_of_the_plain_detector(
    folder: CocoFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = _train(tiny_rcnn(branch=False, schedule__epochs=1), folder, tmp_path / "plain")
    frozen = ["backbone", "fpn", "rpn", "roi_heads"]
    recipe = tiny_rcnn(schedule__epochs=1, schedule__freeze=frozen)
    after = _train(recipe, folder, tmp_path / "branch", init_from=plain.checkpoint)
    assert "predictor.hidden, predictor.output" in caplog.text
    first, second = (load_rcnn(path).detector.state_dict() for path in (plain.checkpoint, after.checkpoint))
    assert all(torch.equal(second[name], value) for name, value in first.items())


def test_what_does_not_fit_a_two_stage_run_is_a_sentence(folder: CocoFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--compile is for single-stage detectors"):
        _train(tiny_rcnn(), folder, tmp_path / "run", compile=True)
    settings = RunSettings(output=tmp_path / "single", accelerator="cpu", workers=0, progress=False, max_steps=1)
    single = train(tiny_recipe(), folder, settings)
    with pytest.raises(CheckpointError, match="holds a single-stage detector; `load_checkpoint` reads it"):
        load_rcnn(single.checkpoint)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("detector", ["faster", "cascade"])
def test_a_two_stage_detector_learns_eight_pictures_by_heart(detector: str, tmp_path: Path) -> None:
    pictures = first_images(dataset("bccd"), tmp_path / "bccd", count=8, without="Platelets")
    recipe = tiny_rcnn(
        detector,
        input={"height": 160, "width": 192},
        augmentation={"flip_horizontal": 0.0},
        schedule__epochs=EPOCHS,
        schedule__validate_every=EPOCHS,
        schedule__weight_decay=0.0,
        schedule__warmup_iterations=10,
        model__fpn_channels=32,
        model__box_head_width=128,
        model__rois__per_image=64,
        # About twenty objects a picture: the tiny recipe's 50 proposals would miss some.
        model__proposals={
            "before_nms": 300,
            "after_nms": 150,
            "before_nms_training": 300,
            "after_nms_training": 150,
        },
    )
    done = _train(recipe, pictures, tmp_path / "run")
    assert (done.metrics["AP50"] or 0) >= LEARNT, done.metrics

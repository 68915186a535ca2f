"""What a run can be told beside its model: accumulation, precision, memory order, compilation, freezing, sizes."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from calibox_core.dataset import CocoFolder
from calibox_training import lightning_module
from calibox_training.checkpoint import TrainedModel, load_checkpoint
from calibox_training.data.module import CocoDataModule
from calibox_training.machine import RunError
from calibox_training.recipe import Recipe, RecipeError
from calibox_training.train import RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.recipes import tiny_recipe

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return make_coco_folder(tmp_path / "rectangles")


def _train(folder: CocoFolder, output: Path, recipe: Recipe, **settings: Any) -> TrainedModel:
    chosen = RunSettings(output=output, accelerator="cpu", workers=0, progress=False, **settings)
    return load_checkpoint(train(recipe, folder, chosen).checkpoint)


def _largest_difference(a: TrainedModel, b: TrainedModel) -> float:
    states = a.detector.state_dict(), b.detector.state_dict()
    return max(float((states[0][name].float() - states[1][name].float()).abs().max()) for name in states[0])


def test_accumulation_takes_one_step_for_several_batches(tmp_path: Path, folder: CocoFolder) -> None:
    recipe = tiny_recipe(schedule__epochs=2, schedule__batch_size=2, schedule__accumulate=3)
    _train(folder, tmp_path / "run", recipe)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 4  # four batches an epoch: three make a step, the last one makes its own
    assert saved["lr_schedulers"][0]["last_epoch"] == 4


def test_the_memory_order_changes_the_speed_and_not_the_weights(tmp_path: Path, folder: CocoFolder) -> None:
    recipes = [tiny_recipe(schedule__epochs=1, schedule__channels_last=choice) for choice in (True, False)]
    last, first = (_train(folder, tmp_path / str(i), recipe) for i, recipe in enumerate(recipes))
    # Sums in another order, magnified by Adam, whose first steps have the size of the rate whatever the gradient.
    assert _largest_difference(last, first) < 0.02


def test_bf16_trains_on_a_cpu(tmp_path: Path, folder: CocoFolder) -> None:
    trained = _train(folder, tmp_path / "run", tiny_recipe(schedule__epochs=1, schedule__precision="bf16-mixed"))
    assert {value.dtype for value in trained.detector.parameters()} == {torch.float32}


def test_fp16_on_a_cpu_is_refused_before_anything_is_written(tmp_path: Path, folder: CocoFolder) -> None:
    with pytest.raises(RunError, match="fp16"):
        _train(folder, tmp_path / "run", tiny_recipe(schedule__precision="16-mixed"))
    assert not (tmp_path / "run").exists()


def test_a_compiled_run_learns_the_same_and_leaves_the_same_keys(
    tmp_path: Path, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(schedule__epochs=1, schedule__ema_decay=0.5)
    plain = _train(folder, tmp_path / "plain", recipe)
    calls = []

    def traced(function: Any, **options: Any) -> Any:
        calls.append(function)
        return compile_(function, **options, backend="eager")  # traces all of it and spares the C++ compiler's minute

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    compiled = _train(folder, tmp_path / "compiled", recipe, compile=True)
    assert any(type(f).__name__ == "Detector" for f in calls)
    assert _largest_difference(compiled, plain) < 1e-6


@pytest.mark.slow
def test_a_run_compiles_for_this_machine(tmp_path: Path, folder: CocoFolder) -> None:
    recipe = tiny_recipe(schedule__epochs=1)
    compiled, plain = (_train(folder, tmp_path / str(c), recipe, compile=c) for c in (True, False))
    assert _largest_difference(compiled, plain) < 0.02


def test_frozen_modules_keep_weights_and_statistics_and_the_others_move(tmp_path: Path, folder: CocoFolder) -> None:
    frozen = ("backbone", "fpn", "head.class_tower", "head.class_conv", "head.box_tower", "head.box_conv")
    recipe = tiny_recipe(schedule__epochs=1, schedule__freeze=list(frozen), seed=3)
    fresh = _fresh(recipe, folder)
    trained = _train(folder, tmp_path / "run", recipe).detector.state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, fresh[name])}
    assert moved == {"head.quality_conv.weight", "head.quality_conv.bias"}


def test_frozen_statistics_stay_while_the_weights_move(tmp_path: Path, folder: CocoFolder) -> None:
    recipe = tiny_recipe(schedule__epochs=1, model__frozen_statistics=True, seed=3)
    fresh = _fresh(recipe, folder)
    trained = _train(folder, tmp_path / "run", recipe).detector.state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, fresh[name])}
    assert not any(name.endswith(("running_mean", "running_var")) for name in moved)
    assert any(name.startswith("backbone.") for name in moved)


def _fresh(recipe: Recipe, folder: CocoFolder) -> dict[str, torch.Tensor]:
    torch.manual_seed(recipe.seed)
    module = lightning_module.DetectorModule(recipe, CocoDataModule(recipe, folder, workers=0), None)  # type: ignore[arg-type]
    return module.detector.state_dict()


def test_a_prefix_that_names_nothing_is_an_error(tmp_path: Path, folder: CocoFolder) -> None:
    with pytest.raises(RecipeError, match=r"schedule\.freeze names neck.*head\.class_tower"):
        _train(folder, tmp_path / "run", tiny_recipe(schedule__freeze=["neck"]))


def test_batches_come_in_the_sizes_of_the_list(
    tmp_path: Path, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    step = lightning_module.DetectorModule.training_step

    @functools.wraps(step)
    def watched(self: lightning_module.DetectorModule, batch: Any) -> torch.Tensor:
        seen.append(tuple(batch.images.shape[1:3]))
        return step(self, batch)

    monkeypatch.setattr(lightning_module.DetectorModule, "training_step", watched)
    sizes = [[64, 96], [96, 128], [128, 160]]
    recipe = tiny_recipe(schedule__epochs=3, schedule__batch_size=1, augmentation__sizes=sizes)
    _train(folder, tmp_path / "run", recipe)
    assert set(seen) == {tuple(size) for size in sizes}
    assert len(seen) == 24

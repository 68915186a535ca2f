"""COCO 2017, PASCAL VOC and KITTI from the official files to a verified bundle, by command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from calibox_core.bundle import read_bundle
from calibox_training.checkpoint import load_checkpoint
from tests.support.coco2017 import make_coco2017
from tests.support.command_line import CommandLine, Finished
from tests.support.kitti import make_kitti
from tests.support.recipes import tiny_recipe
from tests.support.voc import make_voc

# Lightning's advice for machines with many cores; a run of a few images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


def _train(calibox: CommandLine, tmp_path: Path, data: Path, source: dict[str, Any]) -> Finished:
    recipe = tmp_path / "tiny.yaml"
    # No level is cut to its best: scores of a network that has seen two batches lie too close for a sure last place.
    document = tiny_recipe(schedule__epochs=1, per_level_top_k=2000).model_dump(mode="json")
    document["data"] = {"name": data.name, **source}
    recipe.write_text(yaml.safe_dump(document))
    options = ["--data", data, "--output", tmp_path / "run", "--accelerator", "cpu", "--workers", 0, "--no-progress"]
    return calibox("train", recipe, *options)


VOC = {"format": "voc", "voc": {"classes": ["car", "person"]}}
KITTI = {"format": "kitti", "kitti": {"val_fraction": 0.5}}
VOC_KEYS = {"VOC07_AP50", "VOC12_AP50"}
KITTI_KEYS = {f"KITTI_AP_{kind}_{d}" for kind in ("R40", "R11") for d in ("easy", "moderate", "hard")}


@pytest.mark.parametrize(
    ("make", "source", "classes", "counts", "own"),
    [
        (make_coco2017, {}, ["red", "blue"], (8, 4), set()),
        (make_voc, VOC, ["car", "person"], (6, 3), VOC_KEYS),
        (make_kitti, KITTI, ["Car"], (4, 4), KITTI_KEYS),
    ],
    ids=["coco2017", "voc", "kitti"],
)
def test_a_format_is_trained_measured_by_its_own_metric_exported_and_verified(
    tmp_path: Path,
    calibox: CommandLine,
    make: Callable[[Path], Any],
    source: dict[str, Any],
    classes: list[str],
    counts: tuple[int, int],
    own: set[str],
) -> None:
    data = tmp_path / "data"
    make(data)
    done = _train(calibox, tmp_path, data, source)
    assert done.code == 0, done.err
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    trained = load_checkpoint(checkpoint)
    assert [c.name for c in trained.classes] == classes
    assert (trained.dataset.train_images, trained.dataset.val_images) == counts
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert own | {"AP", "AP50", "pearson_score"} <= set(metrics)
    assert set(metrics) & (KITTI_KEYS | VOC_KEYS) == own
    assert all(metrics[key] is not None and 0 <= metrics[key] <= 1 for key in own)
    done = calibox("export", checkpoint, "--output", tmp_path / "models")
    assert done.code == 0, done.err
    bundle = tmp_path / "models" / "tiny" / "1"
    assert own <= set(read_bundle(bundle).manifest.measured["val"])
    done = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", data, "--images", 3)
    assert done.code == 0, done.out + done.err


def test_a_layout_that_the_recipe_does_not_name_ends_in_a_sentence(tmp_path: Path, calibox: CommandLine) -> None:
    done = _train(calibox, tmp_path, make_voc(tmp_path), {})
    assert done.code == 1
    assert "is in the layout voc: set `format: voc` in the recipe's data section" in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_bad_data_ends_in_a_sentence_before_training_starts(tmp_path: Path, calibox: CommandLine) -> None:
    data = make_kitti(tmp_path / "kitti")
    (data / "training" / "label_2" / "000001.txt").write_text("Car 0.00 0\n")
    done = _train(calibox, tmp_path, data, KITTI)
    assert done.code == 1
    assert "000001.txt, line 1 has 3 columns; expected 15" in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "run").exists()

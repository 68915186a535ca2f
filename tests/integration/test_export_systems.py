"""Every single-stage system, trained a little, exported and verified by command."""

import json
from pathlib import Path

import pytest

from calibox_core.bundle import read_bundle
from calibox_core.dataset import CocoFolder
from calibox_training.train import RunSettings, train
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.systems import system

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

# One per method, and one per box coding; the others differ in losses only.
EXPORTED = (
    "retinanet",
    "laar",
    "clq",
    "atss",
    "led",
    pytest.param("led_direct", marks=pytest.mark.slow),
    pytest.param("clq_unaligned", marks=pytest.mark.slow),
    pytest.param("clq_atss", marks=pytest.mark.slow),
    "laar_ssd",
    pytest.param("ssd", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles")


@pytest.mark.parametrize("name", EXPORTED)
def test_a_system_is_exported_and_gives_the_same_answer(
    name: str, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    recipe = system(name, schedule__epochs=6, schedule__validate_every=6)
    settings = RunSettings(output=tmp_path / "run", accelerator="cpu", workers=0, progress=False)
    checkpoint = train(recipe, folder, settings).checkpoint
    chosen = ("--name", name.replace("_", "-"), "--triton", tmp_path / "triton")
    done = calibox("export", checkpoint, "--output", tmp_path / "models", *chosen)
    assert done.code == 0, done.out + done.err
    assert (tmp_path / "triton" / name.replace("_", "-") / "1/model.onnx").is_file()
    bundle = tmp_path / "models" / name.replace("_", "-") / "1"
    manifest = read_bundle(bundle).manifest
    assert (manifest.quality, manifest.fusion, manifest.nms) == (recipe.quality, recipe.fusion, recipe.nms)
    done = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", folder.root, "--split", "train", "--json")
    report = json.loads(done.out)
    assert (report["same"], report["torch_compared"]) == (True, True), done.out
    assert all(line["compared"] > 0 for line in report["comparisons"])

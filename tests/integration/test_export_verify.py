"""Train, export and verify by command, on drawn and on real images."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibox_core.bundle import MODEL_FILE, read_bundle, read_manifest, write_manifest
from calibox_core.dataset import CocoFolder
from calibox_core.parity import Parity
from calibox_export.parity import ANSWER, NETWORK, OPERATOR
from calibox_training.train import RunSettings, train
from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.data import dataset
from tests.support.recipes import tiny_recipe

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles")


@pytest.fixture(scope="module")
def checkpoint(folder: CocoFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten epochs of eight images: enough that scores differ clearly between boxes."""
    settings = RunSettings(output=tmp_path_factory.mktemp("run"), accelerator="cpu", workers=0, progress=False)
    return train(tiny_recipe(schedule__epochs=10, schedule__validate_every=10), folder, settings).checkpoint


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported once by the command, in a process of its own."""
    models = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "calibox_core.cli", "export", str(checkpoint), "--output", str(models)]
    done = subprocess.run(
        [*command, "--name", "rectangles", "--version", "3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = models / "rectangles" / "3"
    assert done.stdout.startswith(f"{folder}: model.onnx of ")
    assert done.stdout.count("\n") == 1
    return folder


def test_an_exported_bundle_is_the_same_answer(
    bundle: Path, checkpoint: Path, folder: CocoFolder, calibox: CommandLine
) -> None:
    assert read_bundle(bundle).manifest.name == "rectangles"
    done = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", folder.root, "--split", "train")
    assert done.code == 0, done.out + done.err
    assert "the same answer" in done.out
    assert "not the same" not in done.out
    found = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", folder.root, "--images", 3, "--json")
    report = json.loads(found.out)
    assert (report["same"], report["torch_compared"]) == (True, True)
    lines = {(line["batch"], line["comparison"]) for line in report["comparisons"]}
    assert lines == {(batch, what) for batch in (1, 3, 8) for what in (NETWORK, ANSWER, OPERATOR)}
    assert all(line["images"] == 3 and line["compared"] > 0 for line in report["comparisons"])


def test_real_images_give_the_same_answer(bundle: Path, checkpoint: Path, calibox: CommandLine) -> None:
    done = calibox("verify", bundle, "--checkpoint", checkpoint, "--data", dataset("bccd").root, "--images", 9)
    assert done.code == 0, done.out + done.err


def test_a_graph_with_other_weights_fails_with_a_table(
    bundle: Path, checkpoint: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    altered = Path(shutil.copytree(bundle, tmp_path / "altered"))
    change_class_bias(altered, by=0.05)
    done = calibox("verify", altered, "--checkpoint", checkpoint, "--data", folder.root, "--split", "train")
    assert done.code == 1
    assert "not the same answer" in done.out
    rows = {line.split()[0]: line.split() for line in done.out.splitlines() if line.split()[1:2] == ["8"]}
    assert int(rows[NETWORK][-1]) > 0  # different
    assert int(rows[OPERATOR][-1]) == 0  # the operator is right about the wrong candidates


def test_the_chain_from_pytorch_to_http_holds_and_is_kept_in_the_manifest(
    bundle: Path, checkpoint: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    copied = Path(shutil.copytree(bundle, tmp_path / "rectangles"))
    done = calibox("verify", copied, "--chain", "--checkpoint", checkpoint, "--data", folder.root, "--json")
    assert done.code == 0, done.out + done.err
    found = Parity.model_validate_json(done.out)
    assert [found.first.name, *(hop.name for hop in found.hops)] == [
        "pytorch",
        "onnxruntime/fp32",
        "http onnxruntime/fp32",
    ]
    assert (found.images, found.left_out, found.dataset) == (4, (), "rectangles val")
    assert all(hop.from_first.same_images == 1 for hop in found.hops)
    assert read_bundle(copied).manifest.parity == found


def test_the_chain_breaks_at_a_graph_with_other_weights(
    bundle: Path, checkpoint: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    altered = Path(shutil.copytree(bundle, tmp_path / "altered"))
    change_class_bias(altered, by=0.05)
    options = ("--data", folder.root, "--images", 2, "--split", "train", "--no-store")
    done = calibox("verify", altered, "--chain", "--checkpoint", checkpoint, *options)
    assert done.code == 1
    assert "the chain breaks at onnxruntime/fp32: 2 of 2 images do not keep" in " ".join(done.out.split())
    assert read_manifest(altered).parity is None


def change_class_bias(bundle: Path, *, by: float) -> None:
    """Shifts every class logit of the graph, and seals the manifest again."""
    model = onnx.load(bundle / MODEL_FILE)
    (bias,) = (value for value in model.graph.initializer if value.name.endswith("class_conv.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(by), bias.name))
    onnx.save(model, bundle / MODEL_FILE)
    write_manifest(bundle, read_manifest(bundle))


def test_without_a_checkpoint_the_operator_is_verified_and_torch_is_not(
    folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    done = calibox("verify", make_tiny_bundle(tmp_path), "--data", folder.root)
    assert done.code == 0, done.out + done.err
    assert "PyTorch was not compared" in done.out
    assert OPERATOR in done.out
    assert NETWORK not in done.out


def test_the_checkpoint_of_another_model_is_refused(
    checkpoint: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    done = calibox("verify", make_tiny_bundle(tmp_path), "--checkpoint", checkpoint, "--data", folder.root)
    assert done.code == 1
    assert "is not the model of tiny/1" in done.err


def test_an_altered_bundle_is_refused(folder: CocoFolder, tmp_path: Path, calibox: CommandLine) -> None:
    bundle = make_tiny_bundle(tmp_path)
    with (bundle / MODEL_FILE).open("ab") as stream:
        stream.write(b"\0")
    done = calibox("verify", bundle, "--data", folder.root)
    assert (done.code, "sha256 differs" in done.err) == (1, True)


def test_a_missing_picture_is_named(folder: CocoFolder, tmp_path: Path, calibox: CommandLine) -> None:
    shutil.copytree(folder.root, tmp_path / "data")
    picture = tmp_path / "data" / "images" / "9.png"  # the first of the validation split
    picture.unlink()
    done = calibox("verify", make_tiny_bundle(tmp_path), "--data", tmp_path / "data")
    assert done.code == 1
    assert f"{picture} cannot be read" in done.err


def test_a_version_that_exists_is_refused_before_anything_is_traced(
    bundle: Path, checkpoint: Path, calibox: CommandLine
) -> None:
    done = calibox("export", checkpoint, "--output", bundle.parents[1], "--name", "rectangles", "--version", 3)
    assert done.code == 1
    assert "choose another version" in done.err

"""A separate quality network from training to answers: train, export, verify, serve, ask."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from calibox_client import ApiError, Client, Detections
from calibox_core.bundle import MODEL_FILE, Bundle, read_bundle
from calibox_core.dataset import CocoFolder
from calibox_core.fusion import FusionName
from calibox_core.nms import OutScore
from calibox_export.chain.run import ChainOrder, verify_chain
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.openvino_ir import OpenVinoBackend
from calibox_export.parity import ANSWER, NETWORK, OPERATOR, REFINED, graph_feeds, open_graph, usual_settings
from calibox_export.verify import letterboxed_images
from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder
from tests.support.command_line import CommandLine
from tests.support.iou_net import trained_detector, trained_predictor
from tests.support.live_server import live_server

# Lightning's advice for machines with many cores; a run of eight images needs no workers.
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers.*")

STEPS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles")


@pytest.fixture(scope="module")
def detector(folder: CocoFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_detector(folder, tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def predictor(detector: Path, folder: CocoFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_predictor(detector, folder, tmp_path_factory.mktemp("predictor"))


@pytest.fixture(scope="module")
def bundle(detector: Path, predictor: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exported once by the command, in a process of its own."""
    models = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-m", "calibox_core.cli", "export", str(detector), "--output", str(models)]
    options = ["--iou-net", str(predictor), "--iou-net-boxes", "60", "--refine-steps", str(STEPS)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return read_bundle(models / "tiny" / "1")


@pytest.fixture(scope="module")
def client(bundle: Bundle) -> Iterator[Client]:
    make_tiny_bundle(bundle.folder.parents[1], name="plain")
    with live_server(bundle.folder.parents[1], max_batch=4) as url, Client(url) as client:
        yield client


def test_the_chain_holds_from_pytorch_to_http(
    bundle: Bundle, detector: Path, predictor: Path, folder: CocoFolder
) -> None:
    def serve_here(place: Path, runtime: str, precision: str) -> AbstractContextManager[str]:
        return live_server(place, engine=runtime, precision=precision, max_batch=1)

    order = ChainOrder(
        folder=folder,
        dataset="rectangles",
        split="train",
        images=4,
        checkpoint=detector,
        iou_net=predictor,
        engines="none",
        serve=serve_here,
    )
    found = verify_chain(bundle, order)
    assert [(hop.name, hop.holds, hop.reason) for hop in found.hops] == [
        ("onnxruntime/fp32", True, ""),
        ("http onnxruntime/fp32", True, ""),
    ]
    assert found.hops[1].from_first.same_images == 1


def test_the_manifest_says_how_boxes_are_ranked_and_refined(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.quality.method, manifest.quality.per_class, manifest.quality.boxes) == ("iou_net", True, 60)
    assert manifest.fusion.name is FusionName.LOCALIZATION
    assert (manifest.nms.out_score, manifest.nms.candidate_floor) == (OutScore.CLASSIFICATION_CLUSTERED, 0.05)
    assert manifest.refinement is not None
    assert (manifest.refinement.steps, manifest.refinement.default_steps) == (STEPS, 0)
    assert (manifest.refinement.step_size, manifest.refinement.early_stop) == (0.5, 0.001)
    assert manifest.measured == {}  # the detector's AP is not this bundle's
    assert manifest.provenance.iou_net is not None
    assert manifest.provenance.iou_net["predictor"]["width"] == 32


def test_an_exported_bundle_is_the_same_answer(
    bundle: Bundle, detector: Path, predictor: Path, folder: CocoFolder, calibox: CommandLine
) -> None:
    options = ["--checkpoint", detector, "--iou-net", predictor, "--data", folder.root, "--split", "train", "--json"]
    done = calibox("verify", bundle.folder, *options)
    assert done.code == 0, done.out + done.err
    report = json.loads(done.out)
    assert (report["same"], report["torch_compared"]) == (True, True)
    lines = {(line["batch"], line["comparison"]): line for line in report["comparisons"]}
    assert set(lines) == {(batch, what) for batch in (1, 3, 8) for what in (NETWORK, ANSWER, OPERATOR, REFINED)}
    assert all(line["compared"] > 0 for line in lines.values())


def test_a_bundle_with_another_predictor_is_not_the_same_answer(
    bundle: Bundle, detector: Path, predictor: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    import torch

    saved = torch.load(predictor, weights_only=True)
    saved["state_dict"]["output.weight"] *= 1.2
    torch.save(saved, tmp_path / "other.ckpt")
    options = ["--checkpoint", detector, "--iou-net", tmp_path / "other.ckpt", "--data", folder.root]
    done = calibox("verify", bundle.folder, *options, "--split", "train", "--images", 3, "--json")
    assert done.code == 1
    different = {line["comparison"] for line in json.loads(done.out)["comparisons"] if line["different"]}
    assert different >= {NETWORK, REFINED}
    assert OPERATOR not in different


def test_verify_asks_for_the_predictor_where_there_is_one_only(
    bundle: Bundle, detector: Path, predictor: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    done = calibox("verify", bundle.folder, "--checkpoint", detector, "--data", folder.root)
    assert (done.code, "has a separate quality network: name its checkpoint with --iou-net" in done.err) == (1, True)
    plain = make_tiny_bundle(tmp_path)
    done = calibox("verify", plain, "--checkpoint", detector, "--iou-net", predictor, "--data", folder.root)
    assert (done.code, "tiny/1 has none: leave out" in done.err) == (1, True)


def test_the_predictor_of_another_detector_is_refused(
    detector: Path, predictor: Path, tmp_path: Path, calibox: CommandLine
) -> None:
    import torch

    saved = torch.load(predictor, weights_only=True)
    saved["iou_net"]["detector"]["recipe"]["seed"] = 7
    saved["iou_net"]["detector"]["commit"] = "1" * 40
    torch.save(saved, tmp_path / "other.ckpt")
    done = calibox("export", detector, "--iou-net", tmp_path / "other.ckpt", "--output", tmp_path / "models")
    assert done.code == 1
    assert "was trained on the features of another detector: its recipe and commit differ" in done.err


def test_more_steps_by_default_than_there_are_is_refused(
    detector: Path, predictor: Path, tmp_path: Path, calibox: CommandLine
) -> None:
    options = ["--refine-steps", 2, "--refine-default", 3, "--output", tmp_path]
    done = calibox("export", detector, "--iou-net", predictor, *options)
    assert (done.code, "3 steps of refinement cannot be the default of a bundle with 2" in done.err) == (1, True)


def test_every_image_of_a_batch_gets_what_it_gets_alone(bundle: Bundle, folder: CocoFolder) -> None:
    images = letterboxed_images(folder, "train", bundle.manifest.input, 4)
    everything = usual_settings(bundle.manifest)[1]
    graph, steps = open_graph(bundle.model_path), np.array([STEPS, 0, 1, STEPS + 9], np.int32)
    together = graph(graph_feeds(images, [everything] * 4) | {"refine_steps": steps})
    plain = graph(graph_feeds(images, [everything] * 4))
    limits = np.array([bundle.manifest.input.width, bundle.manifest.input.height] * 2)
    assert ((together["boxes"] >= 0) & (together["boxes"] <= limits)).all()
    for i in range(4):
        alone = graph(graph_feeds(images[i : i + 1], [everything]) | {"refine_steps": steps[i : i + 1]})
        for name, values in alone.items():
            np.testing.assert_allclose(values[0], together[name][i], rtol=0, atol=1e-3, err_msg=name)
        moved = np.abs(together["boxes"][i] - plain["boxes"][i]).max()
        assert (moved == 0) == (steps[i] == 0)
        assert (together["localization_scores"][i] >= plain["localization_scores"][i] - 1e-5).all()
        for name in ("labels", "scores", "classification_scores", "num_detections"):
            assert np.array_equal(together[name][i], plain[name][i])


def test_an_openvino_engine_gives_the_same_answer(bundle: Bundle, folder: CocoFolder) -> None:
    built = build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    images = letterboxed_images(folder, "train", bundle.manifest.input, 2)
    batch = graph_feeds(images, [usual_settings(bundle.manifest)[1]] * 2)
    feeds = batch | {"refine_steps": np.array([STEPS, 0], np.int32)}
    expected, found = open_graph(bundle.model_path)(feeds), OpenVinoBackend().open(built.folder, "fp32")(feeds)
    assert np.abs(expected["boxes"][0] - open_graph(bundle.model_path)(batch)["boxes"][0]).max() > 0.01
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-2 if "boxes" in name else 1e-5, err_msg=name)


def test_answers_carry_three_scores_and_refined_boxes_when_asked(client: Client, folder: CocoFolder) -> None:
    picture = folder.images / "1.png"
    asked = {"model": "tiny", "score_threshold": 0}
    plain, off, one, all_steps = (
        client.detect(picture, **asked, **refine)  # type: ignore[arg-type]
        for refine in ({}, {"refine": False}, {"refine": 1}, {"refine": True})
    )
    assert len(plain) > 0
    for found in (off, one, all_steps):
        np.testing.assert_array_equal(found.scores, plain.scores)
        np.testing.assert_array_equal(found.classification_scores, plain.classification_scores)
    np.testing.assert_array_equal(off.boxes, plain.boxes)
    assert np.abs(all_steps.boxes - plain.boxes).max() > 0.01
    assert (all_steps.localization_scores >= one.localization_scores - 1e-5).all()
    assert (one.localization_scores >= plain.localization_scores - 1e-5).all()


def test_one_request_may_refine_some_of_its_images(client: Client, folder: CocoFolder) -> None:
    picture = folder.images / "1.png"
    asked = {"model": "tiny", "score_threshold": 0}
    refined, plain = client.detect([picture, picture], refine=[True, False], **asked)  # type: ignore[arg-type]
    assert isinstance(refined, Detections)
    np.testing.assert_array_equal(plain.boxes, client.detect(picture, **asked).boxes)  # type: ignore[arg-type]
    assert np.abs(refined.boxes - plain.boxes).max() > 0.01


def test_a_refusal_says_what_the_model_can_do(client: Client, folder: CocoFolder) -> None:
    picture = folder.images / "1.png"
    with pytest.raises(ApiError, match="plain/1 cannot refine its boxes") as refusal:
        client.detect(picture, model="plain", refine=True)
    assert (refusal.value.status, refusal.value.code) == (422, "invalid_parameter")
    with pytest.raises(ApiError, match=rf"number of steps within 0\.\.{STEPS}"):
        client.detect(picture, model="tiny", refine=STEPS + 1)


def test_the_commands_pass_refine_on(client: Client, folder: CocoFolder, tmp_path: Path, calibox: CommandLine) -> None:
    shared = ["--server", client.url, "--model", "tiny", "--score-threshold", 0]
    found = [
        json.loads(calibox("detect", folder.images / "1.png", *shared, "--refine", value, "--json").out)
        for value in ("true", "0")
    ]
    first, second = (json.dumps(one["detections"]) for one in found)
    assert first != second
    done = calibox(
        "eval", "--data", folder.root, *shared, "--refine", "2", "--output", tmp_path / "results.json", "--json"
    )
    assert done.code == 0, done.err


def test_the_training_command_writes_a_predictor_that_export_reads(
    detector: Path, folder: CocoFolder, tmp_path: Path, calibox: CommandLine
) -> None:
    sizes = ["--epochs", 1, "--batch-size", 4, "--width", 8, "--pooled", 3, "--boxes", 8, "--workers", 0]
    done = calibox(
        "train-iou-net", detector, "--data", folder.root, "--output", tmp_path, *sizes, "--accelerator", "cpu"
    )
    assert done.code == 0, done.err
    assert f"checkpoint: {tmp_path / 'checkpoints' / 'last.ckpt'}" in done.out
    assert "iou_error " in done.out


@pytest.mark.slow  # one more export
def test_without_steps_a_bundle_ranks_by_predicted_iou_and_cannot_refine(
    detector: Path, predictor: Path, tmp_path: Path, calibox: CommandLine
) -> None:
    done = calibox("export", detector, "--iou-net", predictor, "--refine-steps", 0, "--output", tmp_path)
    assert done.code == 0, done.err
    manifest = read_bundle(tmp_path / "tiny" / "1").manifest
    assert (manifest.can_refine, manifest.refinement, manifest.quality.method) == (False, None, "iou_net")
    assert (tmp_path / "tiny" / "1" / MODEL_FILE).is_file()

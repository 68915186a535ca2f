"""`calibox verify --chain`: a hop that changes answers is named, and one that does not is not."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from calibox_core.bundle import MANIFEST_FILE, MODEL_FILE, Bundle, read_bundle, read_manifest, write_manifest
from calibox_core.coco_metrics import coco_metrics, load_ground_truth
from calibox_core.dataset import CocoFolder
from calibox_core.errors import DatasetError
from calibox_core.manifest import InputSpec, Manifest
from calibox_core.nms import Candidates, NmsAttributes
from calibox_core.parity import Parity
from calibox_core.score_map import ScoreMap
from calibox_export.chain.answers import Answer, Certain
from calibox_export.chain.certificate import keep, verdict
from calibox_export.chain.drift import Measure, Taken, drift_between
from calibox_export.chain.over_http import serve_command
from calibox_export.chain.run import NO_CHECKPOINT, ChainOrder, broken_by, verify_chain
from calibox_export.chain.stages import Stage
from calibox_export.engines.accuracy import Placed
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.openvino_ir import OpenVinoBackend, write_ir
from calibox_export.errors import ExportError
from calibox_export.sameness import Rows, Sure
from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder
from tests.support.deeper_network import RED_AND_BLUE
from tests.support.live_server import live_server

ONNX, OPENVINO = "onnxruntime/fp32", "openvino/fp32"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> CocoFolder:
    return make_coco_folder(tmp_path_factory.mktemp("data") / "rectangles")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Its input is square and the images are not, so that the letterbox fills in.

    Every pair goes into the suppression: in plain areas keys are equal, and which of them are cut would be chance.
    """
    every = NmsAttributes(pre_nms_top_k=512, max_detections=50)
    made = make_tiny_bundle(tmp_path / "models", classes=2, height=128, width=128, nms=every)
    write_manifest(made, read_manifest(made).model_copy(update={"classes": RED_AND_BLUE}))
    return read_bundle(made)


@contextmanager
def serve_here(folder: Path, runtime: str, precision: str) -> Iterator[str]:
    """A server in this process, which starts quicker than the command."""
    with live_server(folder, engine=runtime, precision=precision, engine_fallback=False, max_batch=1) as url:
        yield url


def order(folder: CocoFolder, **changes: Any) -> ChainOrder:
    return replace(ChainOrder(folder=folder, dataset="rectangles", serve=serve_here), **changes)


def changed(bundle: Bundle, place: Path, change: Callable[[Manifest], Manifest]) -> Bundle:
    """A copy with another manifest."""
    copied = Path(shutil.copytree(bundle.folder, place / bundle.folder.name))
    write_manifest(copied, change(read_manifest(copied)))
    return read_bundle(copied)


def alter_bias(graph: onnx.ModelProto) -> onnx.ModelProto:
    (bias,) = (value for value in graph.graph.initializer if value.name.endswith("head_bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.05), bias.name))
    return graph


def test_a_chain_without_a_checkpoint_begins_at_the_onnx_file_and_holds(bundle: Bundle, folder: CocoFolder) -> None:
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    found = verify_chain(bundle, order(folder))
    assert found.broken is None
    assert found.first.name == ONNX
    assert NO_CHECKPOINT in found.left_out
    assert [(hop.name, hop.before) for hop in found.hops] == [
        (OPENVINO, ONNX),
        (f"http {ONNX}", ONNX),
        (f"http {OPENVINO}", OPENVINO),
    ]
    assert verdict(found) == f"the chain holds: {ONNX} -> {OPENVINO} -> http {ONNX} -> http {OPENVINO}"
    over_http = found.hops[1].from_before
    assert (over_http.same_images, over_http.different, over_http.unpaired) == (1, 0, 0)
    assert over_http.box.largest < 1e-3
    assert found.hops[1].metrics == pytest.approx(found.first.metrics, abs=1e-6)
    assert found.images == 4


def test_a_server_that_letterboxes_with_another_grey_is_caught_at_http(
    bundle: Bundle, folder: CocoFolder, tmp_path: Path
) -> None:
    def other_grey(manifest: Manifest) -> Manifest:
        return manifest.model_copy(update={"input": InputSpec(height=128, width=128, pad_value=113)})

    wrong = changed(bundle, tmp_path / "wrong", other_grey)
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))

    def serve_wrong(_: Path, runtime: str, precision: str) -> AbstractContextManager[str]:
        return serve_here(wrong.folder if runtime == "onnxruntime" else bundle.folder, runtime, precision)

    found = verify_chain(bundle, order(folder, serve=serve_wrong))
    assert [hop.holds for hop in found.hops] == [True, False, True]
    told = rf"the chain breaks at http {ONNX}: [1-4] of 4 images do not keep the boxes and scores of {ONNX}: "
    assert re.match(told, verdict(found))


def test_an_engine_with_another_weight_is_caught_there_and_not_behind(
    bundle: Bundle, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_altered(graph: onnx.ModelProto, place: Path) -> None:
        write_ir(alter_bias(graph), place)

    monkeypatch.setattr("calibox_export.engines.openvino_ir.write_ir", write_altered)
    build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    found = verify_chain(bundle, order(folder, engines="openvino"))
    assert found.broken is not None
    assert found.broken.name == OPENVINO
    assert [hop.holds for hop in found.hops] == [False, True, True]
    served = found.hops[2]
    assert served.from_before.same_images == 1
    assert served.from_first.same_images < 1  # it serves the wrong engine faithfully


def test_a_steep_score_map_is_no_difference_and_another_one_is(
    bundle: Bundle, folder: CocoFolder, tmp_path: Path
) -> None:
    def mapped(*at: float) -> Callable[[Manifest], Manifest]:
        knots = ScoreMap(raw=(0.0, 0.1, 0.102, 1.0), mapped=at)
        return lambda manifest: manifest.model_copy(update={"score_map": knots})

    right = changed(bundle, tmp_path / "right", mapped(0.0, 0.1, 0.9, 1.0))
    wrong = changed(bundle, tmp_path / "wrong", mapped(0.0, 0.1, 0.8, 1.0))
    assert verify_chain(right, order(folder, images=2)).broken is None

    def serve_wrong(_: Path, runtime: str, precision: str) -> AbstractContextManager[str]:
        return serve_here(wrong.folder, runtime, precision)

    broken = verify_chain(right, order(folder, images=2, serve=serve_wrong)).broken
    assert broken is not None
    assert broken.from_before.score.largest > 1e-3
    assert broken.from_before.classification_score.largest == 0


def test_the_certificate_is_kept_in_the_manifest_and_speaks_of_one_file_alone(
    bundle: Bundle, folder: CocoFolder
) -> None:
    found = verify_chain(bundle, order(folder, images=2))
    keep(bundle, found)
    again = read_bundle(bundle.folder)  # hashes are right
    assert again.manifest.parity == found
    assert again.manifest.model_copy(update={"parity": None, "schema_version": 1}) == bundle.manifest
    with serve_here(bundle.folder, "onnxruntime", "fp32") as url:
        (version,) = httpx2.get(f"{url}/v1/models/tiny").json()["versions"]
    assert Parity.model_validate(version["manifest"]["parity"]) == found
    assert found.standing("tiny/1", again.manifest.files[MODEL_FILE]) == f"holds from {ONNX} to http {ONNX}"
    assert found.standing("tiny/1", "0" * 64) == "of another bundle"
    assert found.standing("tiny/2", again.manifest.files[MODEL_FILE]) == "of another bundle"


def test_nothing_is_written_into_a_bundle_that_changed_meanwhile(bundle: Bundle, folder: CocoFolder) -> None:
    found = verify_chain(bundle, order(folder, images=2))
    onnx.save(alter_bias(onnx.load(bundle.model_path)), bundle.model_path)
    altered = write_manifest(bundle.folder, bundle.manifest)
    with pytest.raises(ExportError, match="was changed while it was measured"):
        keep(bundle, found)
    assert read_manifest(bundle.folder) == altered


def test_a_manifest_without_a_certificate_is_what_it_was(bundle: Bundle) -> None:
    document = json.loads((bundle.folder / MANIFEST_FILE).read_text())
    assert document["schema_version"] == 1
    assert "parity" not in document
    assert read_manifest(bundle.folder).parity is None


def test_data_of_other_classes_are_refused(bundle: Bundle, folder: CocoFolder, tmp_path: Path) -> None:
    only_red = changed(bundle, tmp_path / "red", lambda m: m.model_copy(update={"classes": RED_AND_BLUE[:1]}))
    with pytest.raises(DatasetError, match=r"annotated as category 6, and tiny/1 knows 5: name the data"):
        verify_chain(only_red, order(folder))


def test_a_server_that_does_not_start_is_told_with_what_it_said(bundle: Bundle) -> None:
    with (
        pytest.raises(ExportError, match=r"`calibox serve` ended before it was ready(.|\n)*build one with"),
        serve_command(bundle.folder, "openvino", "int8"),
    ):
        pass


def rows(boxes: list[list[float]], scores: list[float]) -> Rows:
    values = np.array(scores, np.float32)
    labels = np.zeros(len(scores), np.int32)
    return Rows(np.array(boxes, np.float32).reshape(-1, 4), labels, values, values / np.float32(2), scores=values)


def taken(found: Rows, ap: float) -> Taken:
    """One image's answer whose candidates are what it kept, each of which is sure."""
    assert found.scores is not None
    every = np.ones(len(found.labels), bool)
    index = np.arange(len(found.labels))
    pairs = Candidates(*found[:4], np.log(found.scores), index)
    certain = Certain(Sure(pairs, must=every, may=every, low=found.scores, high=found.scores), index)
    measure = Measure({"AP": ap, "AP75": None}, {"AP": np.full(5, ap), "AP75": np.full(5, np.nan)})
    return Taken([Answer(found, found.scores, found.boxes.astype(np.float64), certain)], measure)


def test_drift_by_hand() -> None:
    one = taken(rows([[0, 0, 10, 10], [50, 0, 60, 10], [90, 0, 99, 9]], [0.9, 0.6, 0.2]), 0.5)
    other = taken(rows([[0, 0, 10, 11], [50, 0, 60.5, 10]], [0.8, 0.62]), 0.4)
    drift = drift_between(one, other)
    assert (drift.box.mean, drift.box.largest) == pytest.approx((0.75, 1.0))
    assert (drift.score.mean, drift.score.largest) == pytest.approx((0.06, 0.1), rel=1e-5)
    assert drift.classification_score == drift.score
    assert drift.localization_score.largest == pytest.approx(0.05, rel=1e-5)
    assert drift.unpaired == pytest.approx(1 / 5)
    # Both rows of the second are wrong, and the three of the first are missing.
    assert (drift.same_images, drift.different) == (0, 5)
    gap = drift.metrics["AP"]
    assert gap is not None
    assert (gap.value, gap.low, gap.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert drift.metrics["AP75"] is None


def test_equal_answers_do_not_drift() -> None:
    same = taken(rows([[0, 0, 10, 10]], [0.9]), 0.5)
    drift = drift_between(same, same)
    assert (drift.same_images, drift.different, drift.unpaired, drift.box.largest) == (1, 0, 0, 0)


def test_images_without_detections_or_objects_are_measured_like_others() -> None:
    nothing = taken(rows([], []), 0.5)
    drift = drift_between(nothing, nothing)
    assert (drift.same_images, drift.unpaired, drift.score.mean) == (1, 0, 0)


def test_ap_is_that_of_pycocotools(bundle: Bundle, folder: CocoFolder) -> None:
    found = verify_chain(bundle, order(folder))
    results: list[dict[str, Any]] = []
    with serve_here(bundle.folder, "onnxruntime", "fp32") as url:
        for record in folder.annotations("val")["images"]:
            content = (folder.images / record["file_name"]).read_bytes()
            answer = httpx2.post(f"{url}/v1/detect", params={"score_threshold": 0}, content=content).json()
            for row in answer["results"][0]["detections"]:
                x1, y1, x2, y2 = row["box"]
                entry = {"image_id": record["id"], "category_id": row["label_id"], "score": row["score"]}
                results.append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
    metrics, _ = coco_metrics(load_ground_truth(folder.annotations("val")), results)
    expected = {name: metrics[name] for name in ("AP", "AP75")}
    assert found.hops[-1].metrics == pytest.approx(expected, abs=1e-9)


def test_a_place_of_lower_precision_may_lose_as_much_as_the_limit_and_an_exact_one_nothing() -> None:
    lower = Stage("openvino/bf16", "1", lambda: nullcontext(unasked), before=ONNX, exact=False)
    found = rows([[0, 0, 10, 10]], [0.9])
    moved = rows([[0, 0, 10, 11]], [0.8])
    drift = drift_between(taken(found, 0.5), taken(moved, 0.494))  # 0.6 points
    assert broken_by(lower, drift, 1, limit=0.6001) == ""
    assert broken_by(lower, drift, 1, limit=0.5) == (
        f"it loses 0.60 points of AP against {ONNX}, more than the limit of 0.5"
    )
    assert broken_by(replace(lower, exact=True), drift, 1, limit=100).startswith("1 of 1 images do not keep")


def unasked(_: Placed) -> Answer:
    raise AssertionError


def test_a_certificate_survives_its_json(bundle: Bundle, folder: CocoFolder) -> None:
    found = verify_chain(bundle, order(folder, images=1))
    assert Parity.model_validate_json(found.model_dump_json()) == found

"""`calibox build`: an OpenVINO engine of a real bundle, kept only if it answers as well."""

from pathlib import Path

import numpy as np
import pytest

from calibox_core.bundle import Bundle, read_bundle, read_manifest, write_manifest
from calibox_core.dataset import CocoFolder
from calibox_core.engines import EngineError, find_engines
from calibox_core.manifest import ClassInfo
from calibox_core.openvino_package import IR_FILE
from calibox_export.engines import build as build_module
from calibox_export.engines.accuracy import Found, Measured, compare, measure
from calibox_export.engines.build import BuildOrder, build_engine, points_lost
from calibox_export.engines.openvino_ir import OpenVinoBackend, check_capabilities, open_ir
from calibox_export.parity import graph_feeds, open_graph, usual_settings
from tests.support.bundles import make_tiny_bundle
from tests.support.coco import make_coco_folder

RED_AND_BLUE = (ClassInfo(name="red", category_id=5), ClassInfo(name="blue", category_id=6))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A random network for the data below, whose category ids are 5 and 6."""
    folder = make_tiny_bundle(tmp_path / "models", classes=2)
    write_manifest(folder, read_manifest(folder).model_copy(update={"classes": RED_AND_BLUE}))
    return read_bundle(folder)


@pytest.fixture
def folder(tmp_path: Path) -> CocoFolder:
    return make_coco_folder(tmp_path / "data")


def test_an_engine_in_float32_gives_the_same_answers(bundle: Bundle) -> None:
    built = build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))
    assert find_engines(bundle) == [built.folder]
    settings = usual_settings(bundle.manifest)
    images = np.random.default_rng(0).integers(0, 256, (len(settings), 96, 128, 3), np.uint8)
    expected = open_graph(bundle.model_path)(graph_feeds(images, settings))
    found = open_ir(built.folder / IR_FILE, "fp32")(graph_feeds(images, settings))
    assert expected["num_detections"].min() > 0
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.01)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    assert built.record.accuracy is None


def test_a_lower_precision_is_measured_against_the_onnx_file(bundle: Bundle, folder: CocoFolder) -> None:
    built = build_engine(
        OpenVinoBackend(), bundle, BuildOrder(precision="int8", folder=folder, dataset="rectangles", force=True)
    )
    accuracy = built.record.accuracy
    assert accuracy is not None
    assert (accuracy.dataset, accuracy.images) == ("rectangles val", 4)
    assert accuracy.reference["AP"] is not None
    assert 0 < accuracy.score_drift <= accuracy.score_drift_max
    assert "INT8" in built.record.needs


def test_a_lower_precision_without_data_is_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="kept only after it was measured: name a data set with --data"):
        build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="int8"))


def test_what_loses_more_than_the_limit_is_not_kept(
    bundle: Bundle, folder: CocoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.0 point of AP is too much, 0.3 points of AP75 are not."""
    rows = [found([[0, 0, 9, 9]], [0], [0.5])]
    answers = iter([Measured({"AP": 0.5, "AP75": 0.6}, rows), Measured({"AP": 0.49, "AP75": 0.597}, rows)])
    monkeypatch.setattr(build_module, "measure", lambda *_: next(answers))
    monkeypatch.setattr(OpenVinoBackend, "check", lambda *_: None)
    with pytest.raises(EngineError, match=r"loses 1\.00 points of AP on rectangles val .* limit of 0\.5: nothing was"):
        build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="bf16", folder=folder, dataset="rectangles"))
    assert find_engines(bundle) == []


def test_a_cpu_without_the_arithmetic_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            assert (device, name) == ("CPU", "OPTIMIZATION_CAPABILITIES")
            return ["FP32", "INT8"]

    monkeypatch.setattr("openvino.Core", Core)
    with pytest.raises(EngineError, match="this CPU has no BF16 arithmetic"):
        check_capabilities("bf16")
    check_capabilities("int8")


def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Found:
    return Found(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int32), np.array(scores, np.float32))


def test_drift_is_taken_over_pairs_of_a_class() -> None:
    """By hand: the first pair moves by 2 px and 0.1 of score, the second box has no partner of its class."""
    reference = Measured({"AP": 0.5}, [found([[0, 0, 20, 20], [40, 0, 60, 20]], [0, 1], [0.9, 0.8])])
    engine = Measured({"AP": 0.4}, [found([[0, 2, 20, 20], [40, 0, 60, 20]], [0, 0], [0.8, 0.8])])
    accuracy = compare(reference, engine, dataset="x")
    assert accuracy.score_drift == pytest.approx(0.1)
    assert accuracy.score_drift_max == pytest.approx(0.1)
    assert accuracy.box_drift == pytest.approx(2)
    assert accuracy.unpaired == pytest.approx(0.5)
    assert points_lost(accuracy) == {"AP": pytest.approx(10)}


def test_nothing_found_on_either_side_is_no_drift() -> None:
    nothing = Measured({}, [found([], [], [])])
    accuracy = compare(nothing, nothing, dataset="x")
    assert (accuracy.score_drift, accuracy.box_drift, accuracy.unpaired) == (0, 0, 0)


def test_a_split_is_measured_as_the_server_would_answer(bundle: Bundle, folder: CocoFolder) -> None:
    measured = measure(open_graph(bundle.model_path), bundle.manifest, folder, "val")
    assert len(measured.found) == 4
    assert {"AP", "AP75", "pearson_score"} <= set(measured.metrics)
    assert all((one.labels_N >= 0).all() for one in measured.found)

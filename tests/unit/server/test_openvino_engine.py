"""The OpenVINO engine against ONNX Runtime, and what it refuses."""

import builtins
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import BuiltEngine, EngineError
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.openvino_ir import OpenVinoBackend
from calibox_server.engine import example_batch, tells_candidates
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.openvino_engine import OpenVinoEngine, check_fits
from tests.support.bundles import make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def built(bundle: Bundle) -> BuiltEngine:
    return build_engine(OpenVinoBackend(), bundle, BuildOrder(precision="fp32"))


@pytest.mark.parametrize("batch", [1, 3])
def test_it_answers_as_onnx_runtime(bundle: Bundle, built: BuiltEngine, batch: int) -> None:
    engine = OpenVinoEngine(built, max_batch=batch)
    images = example_batch(bundle.manifest, batch)
    expected, found = OnnxRuntimeEngine(bundle, max_batch=batch).run(images), engine.run(images)
    assert expected.num_detections.min() > 0
    np.testing.assert_array_equal(found.num_detections, expected.num_detections)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert [values.dtype for values in found] == [values.dtype for values in expected]
    assert engine.name.startswith("openvino ")
    assert engine.name.endswith(" fp32 (CPU)")


def test_it_tells_the_candidates_that_onnx_runtime_does(bundle: Bundle, built: BuiltEngine) -> None:
    engine, images = OpenVinoEngine(built, max_batch=2), example_batch(bundle.manifest, 2)
    assert tells_candidates(engine)
    rows, found = engine.run_with_candidates(images)
    _, expected = OnnxRuntimeEngine(bundle, max_batch=2).run_with_candidates(images)
    np.testing.assert_array_equal(rows.boxes, engine.run(images).boxes)
    assert (expected.candidate_labels >= 0).sum() > rows.num_detections.sum()
    np.testing.assert_array_equal(found.candidate_labels, expected.candidate_labels)
    for name in ("candidate_classification_scores", "candidate_localization_scores"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-5)
    np.testing.assert_allclose(found.candidate_boxes, expected.candidate_boxes, atol=0.01)


def test_runs_side_by_side_do_not_touch_each_other(bundle: Bundle, built: BuiltEngine) -> None:
    engine = OpenVinoEngine(built, instances=2)
    rng = np.random.default_rng(1)
    one = example_batch(bundle.manifest, 1)
    batches = [replace(one, images=rng.integers(0, 256, one.images.shape, np.uint8)) for _ in range(12)]
    alone = [engine.run(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:  # more callers than requests: they wait for one
        together = list(pool.map(engine.run, batches))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_an_answer_is_no_view_of_the_next(bundle: Bundle, built: BuiltEngine) -> None:
    engine = OpenVinoEngine(built)
    first = engine.run(example_batch(bundle.manifest, 1))
    before = first.boxes.copy()
    dark = example_batch(bundle.manifest, 1)
    engine.run(replace(dark, images=np.zeros_like(dark.images)))
    np.testing.assert_array_equal(first.boxes, before)


def test_an_older_runtime_or_a_lesser_cpu_is_refused(built: BuiltEngine) -> None:
    check_fits(built, version="2099.1.0", capabilities=["FP32"])
    with pytest.raises(EngineError, match=r"built by OpenVINO .*, and 2026\.1\.0 is installed: raise it"):
        check_fits(built, version="2026.1.0", capabilities=["FP32"])
    needy = replace(built, record=built.record.model_copy(update={"needs": ("BF16",)}))
    with pytest.raises(EngineError, match="needs BF16 arithmetic, which this CPU does not have"):
        check_fits(needy, version="2099.1.0", capabilities=["FP32"])


def test_without_openvino_one_sentence_says_so(built: BuiltEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ImportError("No module named 'openvino'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(EngineError, match=r"OpenVINO cannot be imported .* pip install 'calibox\[openvino\]'"):
        OpenVinoEngine(built)


def test_a_bundle_folder_is_enough(built: BuiltEngine) -> None:
    assert {path.name for path in Path(built.folder).iterdir()} == {"engine.json", "model.bin", "model.xml"}

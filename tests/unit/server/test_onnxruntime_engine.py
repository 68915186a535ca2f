"""The ONNX Runtime engine against the graph contract."""

from pathlib import Path

import numpy as np
import pytest

from calibox_core.bundle import read_bundle, write_manifest
from calibox_core.errors import BundleError
from calibox_core.manifest import InputSpec
from calibox_core.nms import NmsAttributes
from calibox_server.engine import EngineInput, warm_up
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine, check_contract
from calibox_server.onnxruntime_provider import CPU_MAX_BATCH
from tests.support.bundles import make_tiny_bundle
from tests.support.manifests import small_manifest

MANIFEST = small_manifest(input=InputSpec(height=96, width=128), nms=NmsAttributes(max_detections=50))
INPUTS = {
    "images": ("tensor(uint8)", (None, 96, 128, 3)),
    "fusion": ("tensor(float)", (None, 3)),
    "score_threshold": ("tensor(float)", (None,)),
    "iou_threshold": ("tensor(float)", (None,)),
    "refine_steps": ("tensor(int32)", (None,)),
}
OUTPUTS = {
    "num_detections": ("tensor(int32)", (None,)),
    "boxes": ("tensor(float)", (None, 50, 4)),
    "labels": ("tensor(int32)", (None, 50)),
    "classification_scores": ("tensor(float)", (None, 50)),
    "localization_scores": ("tensor(float)", (None, 50)),
    "scores": ("tensor(float)", (None, 50)),
}


def batch_of(images: np.ndarray) -> EngineInput:
    size = len(images)
    return EngineInput(
        images=images,
        fusion=np.tile(np.array([0.5, 0.5, 0], np.float32), (size, 1)),
        score_threshold=np.full(size, 0.2, np.float32),
        iou_threshold=np.full(size, 0.5, np.float32),
        refine_steps=np.zeros(size, np.int32),
    )


def test_it_runs_a_bundle(tmp_path: Path) -> None:
    engine = OnnxRuntimeEngine(read_bundle(make_tiny_bundle(tmp_path)))
    images = np.random.default_rng(0).integers(0, 256, (3, 96, 128, 3), np.uint8)
    out = engine.run(batch_of(images))
    assert out.num_detections.dtype == np.int32
    assert (out.num_detections > 0).all()
    assert out.boxes.shape == (3, 50, 4)
    assert out.labels.shape == out.scores.shape == (3, 50)
    assert engine.name.startswith("onnxruntime ")
    assert (engine.instances, engine.in_flight, engine.max_batch) == (1, 1, CPU_MAX_BATCH)


def test_warming_up_runs_the_smallest_and_the_largest_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = read_bundle(make_tiny_bundle(tmp_path))
    engine = OnnxRuntimeEngine(bundle, max_batch=4)
    sizes = []
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda batch: sizes.append(len(batch.images)) or run(batch))
    warm_up(engine, bundle.manifest)
    assert sorted(sizes) == [1, 4]


def test_a_graph_that_follows_the_contract_is_accepted() -> None:
    check_contract(INPUTS, OUTPUTS | {"candidate_boxes": ("tensor(float)", (None, 1000, 4))}, MANIFEST)


def test_sizes_that_the_graph_leaves_free_are_accepted() -> None:
    check_contract(INPUTS, OUTPUTS | {"labels": ("tensor(int32)", (None, None))}, MANIFEST)


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        ({"fusion": None}, {}, "input fusion is missing"),
        ({}, {"scores": None}, "output scores is missing"),
        ({"extra": ("tensor(float)", (None,))}, {}, "input extra is unknown"),
        (
            {"images": ("tensor(float)", (None, 3, 96, 128))},
            {},
            r"input images is tensor\(float\) \[B, 3, 96, 128\], expected tensor\(uint8\) \[B, 96, 128, 3\]",
        ),
        ({"images": ("tensor(uint8)", (1, 96, 128, 3))}, {}, r"images is tensor\(uint8\) \[1, 96, 128, 3\]"),
        ({}, {"boxes": ("tensor(float)", (None, 100, 4))}, r"boxes is .*\[B, 100, 4\], expected .*\[B, 50, 4\]"),
        ({}, {"boxes": ("tensor(float)", (None, 4))}, r"boxes is tensor\(float\) \[B, 4\]"),
    ],
)
def test_a_graph_that_differs_is_told_where(inputs: dict, outputs: dict, sentence: str) -> None:
    changed_inputs = {k: v for k, v in (INPUTS | inputs).items() if v}
    changed_outputs = {k: v for k, v in (OUTPUTS | outputs).items() if v}
    with pytest.raises(BundleError, match=rf"^the graph of small/1 does not follow .*{sentence}.*; export the bundle"):
        check_contract(changed_inputs, changed_outputs, MANIFEST)


def test_a_manifest_that_does_not_fit_its_graph_is_refused(tmp_path: Path) -> None:
    bundle = read_bundle(make_tiny_bundle(tmp_path))
    write_manifest(bundle.folder, bundle.manifest.model_copy(update={"input": InputSpec(height=64, width=64)}))
    with pytest.raises(BundleError, match=r"input images is .*\[B, 96, 128, 3\], expected .*\[B, 64, 64, 3\]"):
        OnnxRuntimeEngine(read_bundle(bundle.folder))


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    bundle = read_bundle(make_tiny_bundle(tmp_path))
    bundle.model_path.write_bytes(b"not a model")
    write_manifest(bundle.folder, bundle.manifest)
    with pytest.raises(BundleError, match=r"cannot load .*model\.onnx"):
        OnnxRuntimeEngine(read_bundle(bundle.folder))

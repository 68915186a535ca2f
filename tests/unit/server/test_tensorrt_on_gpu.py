"""Serving by TensorRT on a GPU, against ONNX Runtime. Run by `pytest -m gpu`; skipped where something is missing."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import EngineError, read_engine
from calibox_export.engines.backend import Backend
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.tensorrt_plan import TensorRtBackend, TensorRtRtxBackend
from calibox_server.cuda.choice import CudaDriverName, open_driver
from calibox_server.engine import EngineInput, EngineOutput, example_batch
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine
from calibox_server.tensorrt.engine import TensorRtEngine, open_tensorrt
from tests.support.bundles import make_tiny_bundle

pytestmark = pytest.mark.gpu

MAX_BATCH = 6


@pytest.fixture(scope="module", params=[TensorRtBackend, TensorRtRtxBackend], ids=lambda made: made.runtime)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With an engine for this GPU."""
    backend: Backend = request.param()
    made = read_bundle(make_tiny_bundle(tmp_path_factory.mktemp("models")))
    try:
        open_driver()
        build_engine(backend, made, BuildOrder(precision="fp32", max_batch=MAX_BATCH))
    except EngineError as error:
        pytest.skip(str(error))
    return made


@pytest.fixture(params=["cuda-bindings", "pycuda"])
def engine(request: pytest.FixtureRequest, bundle: Bundle) -> TensorRtEngine:
    wanted: CudaDriverName = request.param
    try:
        open_driver(wanted)
    except EngineError as error:
        pytest.skip(str(error))
    (folder,) = (bundle.folder / "engines").glob("*/fp32")
    return open_tensorrt(read_engine(bundle, folder), bundle.manifest, cuda_driver=wanted)


def images(bundle: Bundle, size: int, seed: int) -> EngineInput:
    batch = example_batch(bundle.manifest, size)
    return replace(batch, images=np.random.default_rng(seed).integers(0, 256, batch.images.shape, np.uint8))


def assert_same(found: EngineOutput, expected: EngineOutput) -> None:
    np.testing.assert_array_equal(found.num_detections, expected.num_detections)
    for image, count in enumerate(expected.num_detections):
        np.testing.assert_array_equal(found.labels[image, :count], expected.labels[image, :count])
        np.testing.assert_allclose(found.boxes[image, :count], expected.boxes[image, :count], atol=0.01)
        np.testing.assert_allclose(found.scores[image, :count], expected.scores[image, :count], atol=1e-5)


@pytest.mark.parametrize("size", range(1, MAX_BATCH + 1))
def test_it_answers_as_onnx_runtime(bundle: Bundle, engine: TensorRtEngine, size: int) -> None:
    batch = images(bundle, size, seed=size)
    expected = OnnxRuntimeEngine(bundle, max_batch=size).run(batch)
    assert expected.num_detections.min() > 0
    assert_same(engine.run(batch), expected)
    engine.close()


def test_callers_side_by_side_get_their_own_answers(bundle: Bundle, engine: TensorRtEngine) -> None:
    reference = OnnxRuntimeEngine(bundle, max_batch=MAX_BATCH)
    batches = [images(bundle, 1 + seed % MAX_BATCH, seed) for seed in range(24)]
    with ThreadPoolExecutor(4) as pool:  # more than there are slots
        found = list(pool.map(engine.run, batches))
    for answer, batch in zip(found, batches, strict=True):
        assert_same(answer, reference.run(batch))
    engine.close()


def test_closing_gives_the_memory_back(bundle: Bundle, engine: TensorRtEngine) -> None:
    import torch

    engine.run(images(bundle, MAX_BATCH, seed=0))
    held, _ = torch.cuda.mem_get_info()
    engine.close()
    free, _ = torch.cuda.mem_get_info()
    assert free > held
    with pytest.raises(EngineError, match="was closed"):
        engine.run(images(bundle, 1, seed=0))

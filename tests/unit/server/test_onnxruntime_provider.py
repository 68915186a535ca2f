"""What ONNX Runtime runs on: providers, their options, buckets of batches, and sentences where one is missing."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import BuiltEngine, EngineError, EngineRecord
from calibox_server.engine import example_batch
from calibox_server.onnxruntime_engine import OnnxRuntimeEngine, check_needs
from calibox_server.onnxruntime_provider import bucket_sizes, check_placed, placement
from tests.support.bundles import make_tiny_bundle
from tests.support.manifests import small_manifest

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(make_tiny_bundle(tmp_path_factory.mktemp("models")))


def test_auto_takes_cuda_only_where_the_package_has_it() -> None:
    manifest = small_manifest()
    here = placement("auto", [CPU], manifest, None)
    assert (here.title, here.max_batch, here.buckets, [name for name, _ in here.providers]) == ("CPU", 1, False, [CPU])
    there = placement("auto", [CUDA, CPU], manifest, 16)
    assert (there.title, there.max_batch, there.buckets) == ("CUDA", 16, True)
    assert [name for name, _ in there.providers] == [CUDA, CPU]
    assert dict(there.providers[0][1])["use_tf32"] == "0"
    assert placement("cpu", [CUDA, CPU], manifest, None).title == "CPU"


def test_tensorrt_inside_plans_for_every_batch_and_falls_back_to_cuda() -> None:
    place = placement("tensorrt", [TENSORRT, CUDA, CPU], small_manifest(), None)
    assert [name for name, _ in place.providers] == [TENSORRT, CUDA, CPU]
    options = dict(place.providers[0][1])
    assert options["trt_fp16_enable"] == "0"
    assert options["trt_profile_max_shapes"] == (
        "images:8x96x128x3,fusion:8x3,score_threshold:8,iou_threshold:8,refine_steps:8"
    )
    assert options["trt_profile_min_shapes"].startswith("images:1x96x128x3,")


@pytest.mark.parametrize(("wanted", "lacking"), [("cuda", CUDA), ("tensorrt", TENSORRT)])
def test_a_package_without_the_provider_is_told_in_a_sentence(wanted: Any, lacking: str) -> None:
    with pytest.raises(EngineError, match=f"has no {lacking} .* put onnxruntime-gpu in its place"):
        placement(wanted, [CPU], small_manifest(), None)


def test_a_provider_that_could_not_start_is_told() -> None:
    place = placement("cuda", [CUDA, CPU], small_manifest(), None)
    check_placed(place, [CUDA, CPU])
    with pytest.raises(EngineError, match="could not start its CUDAExecutionProvider"):
        check_placed(place, [CPU])


def test_buckets_double_up_to_the_largest() -> None:
    assert bucket_sizes(1) == (1,)
    assert bucket_sizes(8) == (1, 2, 4, 8)
    assert bucket_sizes(6) == (1, 2, 4, 6)


def test_on_a_gpu_batches_are_filled_up_and_answers_cut(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is made out to be CUDA; the session runs on the CPU."""
    import onnxruntime as ort

    real = ort.InferenceSession
    sizes: list[int] = []

    class Session:
        def __init__(self, path: Path, options: object, providers: Sequence[Any]) -> None:
            assert [name for name, _ in providers] == [CUDA, CPU]
            self._inner = real(path, options, providers=[CPU])

        def run(self, names: Sequence[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
            (size,) = {len(array) for array in feeds.values()}
            sizes.append(size)
            return list(self._inner.run(list(names), feeds))

        def get_providers(self) -> list[str]:
            return [CUDA, CPU]

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

    monkeypatch.setattr(ort, "InferenceSession", Session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    engine = OnnxRuntimeEngine(bundle, provider="auto", max_batch=4)
    assert engine.name.endswith("(CUDA)")
    assert sizes == [1, 2, 4]  # warmed up: no request pays for a new shape
    batch = example_batch(bundle.manifest, 3)
    found = engine.run(batch)
    assert sizes[3:] == [4]
    plain = real(bundle.model_path, providers=[CPU])
    for name, array in zip(found._fields, found, strict=True):
        (alone,) = plain.run([name], {key: getattr(batch, key) for key in batch.__dataclass_fields__})
        np.testing.assert_array_equal(array, alone)


def test_a_built_file_that_needs_what_is_not_here_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = SimpleNamespace(needs=(CUDA,))
    built = BuiltEngine(tmp_path, record)  # type: ignore[arg-type]
    check_needs(built, [CUDA, CPU])
    with pytest.raises(EngineError, match="needs CUDAExecutionProvider, which there is not here"):
        check_needs(built, [CPU])
    assert "needs" in EngineRecord.model_fields

"""From a graph to a plan, by a package that records what it is asked; TensorRT-RTX itself is asked in test_rtx_gate."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from calibox_core.bundle import read_bundle
from calibox_core.engines import EngineError
from calibox_export.engines.tensorrt_build import PlanOrder, build_plan
from tests.support.bundles import make_tiny_bundle
from tests.support.recording_tensorrt import STRONGLY_TYPED, BuilderFlag, RecordingTensorRt


@pytest.fixture
def order(tmp_path: Path) -> PlanOrder:
    """Of a tiny bundle, with a plugin that the package takes whatever it is."""
    bundle = read_bundle(make_tiny_bundle(tmp_path / "models"))
    return PlanOrder(
        runtime="tensorrt",
        graph=bundle.model_path.read_bytes(),
        plan=tmp_path / "model.plan",
        max_batch=5,
        plugin=tmp_path / "libcalibox_trt_plugins.so",
    )


@pytest.mark.parametrize(("version", "flags"), [("10.15.1", 1 << STRONGLY_TYPED), ("11.4.0", 0)])
def test_a_network_is_strongly_typed_with_the_flag_of_10_and_without_one_in_11(
    version: str, flags: int, order: PlanOrder
) -> None:
    trt = RecordingTensorRt(version)
    build_plan(trt, order)
    assert trt.network_flags == flags


def test_one_profile_goes_from_one_image_to_the_largest_batch(order: PlanOrder) -> None:
    trt = RecordingTensorRt()
    build_plan(trt, order)
    assert trt.config.profiles == 1
    assert trt.profile["images"] == ((1, 96, 128, 3), (3, 96, 128, 3), (5, 96, 128, 3))
    assert trt.profile["score_threshold"] == ((1,), (3,), (5,))
    assert set(trt.profile) == {"images", "fusion", "score_threshold", "iou_threshold", "refine_steps"}
    build_plan(trt, replace(order, max_batch=1))
    assert trt.profile["fusion"] == ((1, 3), (1, 3), (1, 3))


def test_float32_is_float32_and_nan_is_nan(order: PlanOrder) -> None:
    trt = RecordingTensorRt()
    build_plan(trt, order)
    assert trt.config.flags == {BuilderFlag.STRICT_NANS}
    assert trt.config.limits == {"workspace": 4 << 30}


def test_a_plugin_stays_beside_the_plan_unless_it_is_to_be_inside(order: PlanOrder) -> None:
    trt = RecordingTensorRt()
    assert build_plan(trt, order)
    assert trt.libraries == ["libcalibox_trt_plugins.so"]
    assert json.loads(order.plan.read_bytes())["inside"] == []
    assert build_plan(trt, replace(order, embed_plugin=True))
    assert json.loads(order.plan.read_bytes())["inside"] == [str(order.plugin)]
    assert BuilderFlag.VERSION_COMPATIBLE in trt.config.flags


def test_a_plugin_that_no_layer_uses_is_not_part_of_the_plan(order: PlanOrder, tmp_path: Path) -> None:
    """As in TensorRT 10.6 and earlier, which prefers the function; here the node has another namespace."""
    trt = RecordingTensorRt()
    other = order.graph.replace(b"plugin_namespace", b"plugin_namespoce")
    assert not build_plan(trt, replace(order, graph=other, embed_plugin=True))
    assert json.loads(order.plan.read_bytes())["inside"] == []
    assert not build_plan(RecordingTensorRt(), replace(order, plugin=None, embed_plugin=True))


def test_timings_are_kept_for_the_next_build(order: PlanOrder, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "tensorrt.timing"
    with_cache = replace(order, timing_cache=cache)
    build_plan(RecordingTensorRt(), with_cache)
    assert cache.read_bytes() == b" and this build"
    build_plan(RecordingTensorRt(), with_cache)
    assert cache.read_bytes() == b" and this build and this build"
    assert [path.name for path in cache.parent.iterdir()] == ["tensorrt.timing"]


def test_timings_of_another_version_count_as_none(order: PlanOrder, tmp_path: Path) -> None:
    cache = tmp_path / "tensorrt.timing"
    cache.write_bytes(b"other version")
    build_plan(RecordingTensorRt(), replace(order, timing_cache=cache))
    assert cache.read_bytes() == b" and this build"


def test_timings_that_cannot_be_kept_are_no_error(order: PlanOrder, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    build_plan(RecordingTensorRt(), replace(order, timing_cache=tmp_path / "file" / "tensorrt.timing"))
    assert order.plan.is_file()


@pytest.mark.parametrize(
    ("fail_at", "text"),
    [
        ("Builder", "is there an NVIDIA GPU and its driver (nvidia-smi): CUDA initialization failure with error: 35"),
        ("load_library", "libcalibox_trt_plugins.so: undefined symbol: calibox"),
        ("parse", "tensorrt takes no NonZero like n7 in Inner in Outer: static assertion: no such thing"),
        ("build", "tensorrt cannot build the engine: no tactic is left"),
    ],
)
def test_what_is_refused_is_one_sentence_with_the_reason(fail_at: str, text: str, order: PlanOrder) -> None:
    with pytest.raises(EngineError, match=re.escape(text) + "$"):
        build_plan(RecordingTensorRt(fail_at=fail_at), order)
    assert not order.plan.exists()

"""TensorRT-RTX reads every bundle's graph and builds engines of it, which needs no GPU and no driver.

It stands in for TensorRT, whose parser is the same: what it refuses here would be found on a GPU only. Each engine is
built in a process of its own, as `calibox build` does it. The package has wheels for Linux and Windows on x86-64.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from calibox_core.bundle import Bundle, read_bundle
from calibox_core.engines import EngineError
from calibox_core.nms import NmsAttributes, OutScore
from calibox_core.precision import Precision
from calibox_export.engines.build import BuildOrder, build_engine
from calibox_export.engines.tensorrt_build import PlanOrder, build_plan_apart
from calibox_export.engines.tensorrt_graph import tensorrt_graph
from calibox_export.engines.tensorrt_plan import TensorRtRtxBackend
from calibox_export.low_precision.int8 import to_int8
from calibox_export.parity import graph_feeds, usual_settings
from tests.support.bundles import make_tiny_bundle
from tests.support.iou_net_graph import iou_net_model

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed; its extra is tensorrt-rtx"
)
ROOT = Path(__file__).resolve().parents[2]
TARGET = ("sm_89",)


def built_size(graph: onnx.ModelProto, folder: Path) -> int:
    """Bytes of the engine of a graph of `tensorrt_graph`."""
    plan = folder / "model.plan"
    order = PlanOrder(
        runtime="tensorrt-rtx", graph=graph.SerializeToString(), plan=plan, max_batch=4, capabilities=TARGET
    )
    assert not build_plan_apart(order)
    return plan.stat().st_size


def tiny(folder: Path, out_score: OutScore = OutScore.KEY) -> Bundle:
    return read_bundle(
        make_tiny_bundle(folder, nms=NmsAttributes(pre_nms_top_k=200, max_detections=50, out_score=out_score))
    )


def test_an_engine_for_two_kinds_of_gpu_lies_in_the_bundle(tmp_path: Path) -> None:
    bundle = tiny(tmp_path, OutScore.CLASSIFICATION)
    order = BuildOrder(precision="fp32", targets=("sm_86", "sm_120"))
    built = build_engine(TensorRtRtxBackend(), bundle, order)
    assert {path.name for path in built.folder.iterdir()} == {"model.plan", "engine.json"}
    record = json.loads((built.folder / "engine.json").read_text())
    assert record["needs"] == ["sm_86", "sm_120"]
    assert record["plugin_sha256"] is None
    assert record["runtime_version"].startswith("1.")


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_half_precision_for_another_machine_is_built_unmeasured(precision: Precision, tmp_path: Path) -> None:
    built = build_engine(
        TensorRtRtxBackend(), tiny(tmp_path), BuildOrder(precision=precision, targets=TARGET, force=True)
    )
    assert built.record.needs == TARGET
    assert built.record.accuracy is None
    assert (built.folder / "model.plan").stat().st_size > 0


def test_int8_is_built_of_a_bundle_that_has_it(tmp_path: Path) -> None:
    bundle = tiny(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (1, 96, 128, 3), np.uint8)
    quantised = to_int8(onnx.load(bundle.model_path), [graph_feeds(images, usual_settings(bundle.manifest)[:1])])
    assert built_size(tensorrt_graph(quantised, "int8"), tmp_path) > 0


@pytest.mark.parametrize("precision", ["fp16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("fp32", "bf16"))])
def test_an_iou_net_with_its_refinement_is_built(precision: Precision, tmp_path: Path) -> None:
    """A loop within which boxes are pooled and the gradient is taken; the operator's scores are clustered."""
    graph = tensorrt_graph(iou_net_model(out_score=OutScore.CLASSIFICATION_CLUSTERED), precision)
    assert built_size(graph, tmp_path) > 0


def test_the_default_bundle_is_built_in_half_precision(tmp_path: Path) -> None:
    (path,) = (ROOT / "models").glob("*/*/model.onnx")
    size = built_size(tensorrt_graph(onnx.load(path), "fp16"), tmp_path)
    assert size > path.stat().st_size / 2  # the weights are in it


@pytest.mark.slow
def test_the_default_bundle_is_built_in_float32(tmp_path: Path) -> None:
    (path,) = (ROOT / "models").glob("*/*/model.onnx")
    assert built_size(tensorrt_graph(onnx.load(path), "fp32"), tmp_path) > path.stat().st_size


def test_a_node_that_it_does_not_take_is_named(tmp_path: Path) -> None:
    graph = onnx.load(tiny(tmp_path).model_path)
    shape = next(node for node in graph.graph.node if node.output[0] == "network/boxes")
    shape.output[0] = "network/clipped"
    graph.graph.node.insert(
        len(graph.graph.node) - 1, helper.make_node("Det", ["network/clipped"], ["network/boxes"], name="wrong")
    )
    with pytest.raises(EngineError, match="tensorrt-rtx takes no Det like wrong"):
        built_size(tensorrt_graph(graph, "fp32"), tmp_path)


def test_a_gpu_that_it_does_not_build_for_is_told(tmp_path: Path) -> None:
    order = BuildOrder(precision="fp32", targets=("sm_90",))
    with pytest.raises(EngineError, match=r"builds for no sm_90, only for sm_75, sm_80, sm_86, sm_89, sm_120, sm_121"):
        build_engine(TensorRtRtxBackend(), tiny(tmp_path), order)

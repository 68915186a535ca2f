"""What the operator's node and body are made of; what they compute is tested in tests/property."""

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import defs, helper
from onnx.reference import ReferenceEvaluator

from calibox_core.manifest import OPSET
from calibox_core.nms import NmsAttributes, OutScore
from calibox_core.operator_names import INPUTS, OUTPUTS
from calibox_export.calibrated_nms import calibrated_nms_function, calibrated_nms_node
from calibox_export.graph import operator_model
from tests.support.nms_images import P_GRID, Q_GRID, random_boxes
from tests.support.operator_graph import run_operator

FORBIDDEN = {"NonMaxSuppression", "NonZero"}  # not every runtime has them


def all_nodes(nodes: Iterator[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from all_nodes(iter(attribute.g.node))


def bodies() -> Iterator[onnx.FunctionProto]:
    """Every body that differs in its nodes."""
    for out_score in OutScore:
        for quality_per_class in (False, True):
            yield calibrated_nms_function(NmsAttributes(out_score=out_score), quality_per_class=quality_per_class)


def test_the_body_uses_standard_operators_of_its_opset_only() -> None:
    for body in bodies():
        assert {(entry.domain, entry.version) for entry in body.opset_import} == {("", OPSET)}
        for node in all_nodes(iter(body.node)):
            assert node.domain == ""
            assert node.op_type not in FORBIDDEN
            assert not defs.get_schema(node.op_type, OPSET, "").deprecated


def test_the_body_takes_a_logarithm_of_few_scores_where_quality_is_per_anchor() -> None:
    """Logarithms are of maxima over the classes, or of the anchors that were chosen: never of p or of q themselves."""
    body = calibrated_nms_function(NmsAttributes(), quality_per_class=False)
    made_by = {output: node for node in body.node for output in node.output}
    origins = {made_by[made_by[node.input[0]].input[0]].op_type for node in body.node if node.op_type == "Log"}
    assert origins == {"If", "Squeeze", "GatherND"}


@pytest.mark.parametrize(
    "attributes", [NmsAttributes(), NmsAttributes(out_score=OutScore.CLASSIFICATION, max_detections=7)]
)
def test_the_node_writes_every_attribute_out(attributes: NmsAttributes) -> None:
    node = calibrated_nms_node(attributes, inputs=INPUTS, outputs=OUTPUTS)
    written = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    written = {name: value.decode() if isinstance(value, bytes) else value for name, value in written.items()}
    floor = written.pop("candidate_floor")
    assert floor == pytest.approx(attributes.candidate_floor, rel=1e-6)  # ONNX holds float32
    assert written == {
        "out_score": str(attributes.out_score),
        "class_agnostic": int(attributes.class_agnostic),
        "pre_nms_top_k": attributes.pre_nms_top_k,
        "max_detections": attributes.max_detections,
        "plugin_version": "1",
        "plugin_namespace": "calibox",
    }


def test_the_function_declares_what_the_node_carries() -> None:
    body = calibrated_nms_function(NmsAttributes(), quality_per_class=False)
    node = calibrated_nms_node(NmsAttributes(), inputs=INPUTS, outputs=OUTPUTS)
    assert set(body.attribute) == {attribute.name for attribute in node.attribute}
    assert (node.domain, node.op_type) == (body.domain, body.name) == ("calibox", "CalibratedNMS")
    assert tuple(body.input) == INPUTS
    assert len(body.output) == len(OUTPUTS)


@pytest.mark.parametrize("quality_per_class", [False, True])
@pytest.mark.parametrize("out_score", OutScore)
def test_the_checker_passes_with_shapes_inferred(out_score: OutScore, quality_per_class: bool) -> None:
    onnx.checker.check_model(
        operator_model(NmsAttributes(out_score=out_score), quality_per_class=quality_per_class), full_check=True
    )


@pytest.mark.parametrize("quality_per_class", [False, True])
@pytest.mark.parametrize("out_score", OutScore)
def test_the_evaluator_of_onnx_gives_the_same_numbers(out_score: OutScore, quality_per_class: bool) -> None:
    """A second runtime: the body leans on what the standard says and not on habits of ONNX Runtime.

    Its GatherElements takes at most 64 columns, hence so few anchors.
    """
    rng, images, anchors = np.random.default_rng(1), 2, 15
    inputs = {
        "boxes": np.stack([random_boxes(rng, anchors, field=16) for _ in range(images)]),
        "p": rng.choice(P_GRID, (images, anchors, 3)),
        "q": rng.choice(Q_GRID, (images, anchors, 3 if quality_per_class else 1)),
        "fusion": np.array([[1, 1, 0], [0, 0, 1]], np.float32),
        "score_threshold": np.array([0, 0.3], np.float32),
        "iou_threshold": np.array([0.5, 0.3], np.float32),
    }
    attributes = NmsAttributes(out_score=out_score, pre_nms_top_k=40, max_detections=9)
    evaluator = ReferenceEvaluator(operator_model(attributes, quality_per_class=quality_per_class))
    found = dict(zip(OUTPUTS, evaluator.run(list(OUTPUTS), {f"in_{k}": v for k, v in inputs.items()}), strict=True))
    expected = run_operator(attributes, inputs, quality_per_class=quality_per_class)
    assert expected["num_detections"].min() > 0
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)

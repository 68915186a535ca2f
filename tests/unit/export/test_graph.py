"""The graph of a bundle: names, types, shapes, and what is refused."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from calibox_core.nms import NmsAttributes
from calibox_export.errors import ExportError
from calibox_export.graph import attach_calibrated_nms
from tests.support.bundles import tiny_network

ATTRIBUTES = NmsAttributes(pre_nms_top_k=30, max_detections=9)
INPUTS = {
    "images": ("UINT8", ["batch", 96, 128, 3]),
    "fusion": ("FLOAT", ["batch", 3]),
    "score_threshold": ("FLOAT", ["batch"]),
    "iou_threshold": ("FLOAT", ["batch"]),
    "refine_steps": ("INT32", ["batch"]),
}
OUTPUTS = {
    "num_detections": ("INT32", ["batch"]),
    "boxes": ("FLOAT", ["batch", 9, 4]),
    "labels": ("INT32", ["batch", 9]),
    "classification_scores": ("FLOAT", ["batch", 9]),
    "localization_scores": ("FLOAT", ["batch", 9]),
    "scores": ("FLOAT", ["batch", 9]),
    "candidate_boxes": ("FLOAT", ["batch", 30, 4]),
    "candidate_labels": ("INT32", ["batch", 30]),
    "candidate_classification_scores": ("FLOAT", ["batch", 30]),
    "candidate_localization_scores": ("FLOAT", ["batch", 30]),
}


def signature(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, list[str | int]]]:
    return {
        value.name: (
            TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def test_inputs_and_outputs_follow_the_contract_in_order() -> None:
    model = attach_calibrated_nms(tiny_network(), ATTRIBUTES)
    assert list(signature(model.graph.input).items()) == list(INPUTS.items())
    assert list(signature(model.graph.output).items()) == list(OUTPUTS.items())


def test_the_file_says_who_wrote_it_and_which_versions_it_needs() -> None:
    model = attach_calibrated_nms(tiny_network(), ATTRIBUTES, metadata={"name": "tiny"})
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "calibox": 1}
    assert model.ir_version >= 9  # the first that knows opset 20
    assert model.producer_name == "calibox"
    assert {entry.key: entry.value for entry in model.metadata_props} == {"name": "tiny"}
    assert [function.name for function in model.functions] == ["CalibratedNMS"]


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_every_batch_size_has_the_declared_shapes(batch: int) -> None:
    model = attach_calibrated_nms(tiny_network(), ATTRIBUTES)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).integers(0, 256, (batch, 96, 128, 3), np.uint8)
    feeds = {
        "images": images,
        "fusion": np.tile(np.array([[1, 1, 0]], np.float32), (batch, 1)),
        "score_threshold": np.zeros(batch, np.float32),
        "iou_threshold": np.full(batch, 0.5, np.float32),
        "refine_steps": np.zeros(batch, np.int32),
    }
    found = dict(zip(OUTPUTS, session.run(list(OUTPUTS), feeds), strict=True))
    assert {name: list(values.shape) for name, values in found.items()} == {
        name: [batch, *dims[1:]] for name, (_, dims) in OUTPUTS.items()
    }
    assert (found["num_detections"] > 0).all()


def test_the_network_is_left_as_it_was() -> None:
    network = tiny_network()
    before = network.SerializeToString()
    attach_calibrated_nms(network, ATTRIBUTES)
    assert network.SerializeToString() == before


def test_a_network_with_other_names_is_refused() -> None:
    network = tiny_network()
    network.graph.output[1].name = "scores"
    with pytest.raises(ExportError, match=r"outputs .*'boxes', 'p', 'q'.* got"):
        attach_calibrated_nms(network, ATTRIBUTES)


def test_a_network_of_another_opset_is_refused() -> None:
    network = tiny_network()
    network.opset_import[0].version = 18
    with pytest.raises(ExportError, match="opset 20, got 18"):
        attach_calibrated_nms(network, ATTRIBUTES)


def test_a_network_without_a_fixed_input_size_is_refused() -> None:
    network = tiny_network()
    network.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    with pytest.raises(ExportError, match="fixed H and W"):
        attach_calibrated_nms(network, ATTRIBUTES)


def test_float_images_are_refused() -> None:
    network = tiny_network()
    network.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    with pytest.raises(ExportError, match="uint8"):
        attach_calibrated_nms(network, ATTRIBUTES)

"""IoU-Net's graphs in ONNX Runtime against the training package, and what is refused."""

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from onnx import helper
from torch import Tensor

from calibox_core.nms import NmsAttributes
from calibox_export.engines.openvino_ir import input_names, openvino_model
from calibox_export.errors import ExportError
from calibox_export.graph import BATCH
from calibox_export.iou_net.bundle_graph import bundle_graph
from calibox_export.iou_net.pool_gradient import prroi_pool_grad_function, prroi_pool_grad_node
from calibox_export.iou_net.refined import compare_refined, mixed_steps
from calibox_export.iou_net.stage import predictor_stage, refine_stage
from calibox_training.iou_net.prroi_pool import prroi_pool
from calibox_training.iou_net.spec import RefinementSpec
from tests.support.bundles import tiny_network
from tests.support.iou_net import hilly_predictor
from tests.support.iou_net_stages import (
    CLASSES,
    LEVELS,
    PREDICTOR,
    SIZE,
    feeds,
    quality_by_torch,
    quality_session,
    random_boxes,
    random_maps,
    refined_by_runtime,
    refined_by_torch,
    session,
)

BINS = (3, 2)
BOX = [40.0, 48, 140, 160]


def gradient_by_runtime(features: Tensor, rois: Tensor, gradient: Tensor) -> Tensor:
    node = prroi_pool_grad_node("features", "rois", "by_pooled", "slope", output_size=BINS, spatial_scale=1 / 8)
    values = {"features": features, "rois": rois, "by_pooled": gradient}
    inputs = [helper.make_tensor_value_info(name, 1, list(tensor.shape)) for name, tensor in values.items()]
    graph = helper.make_graph([node], "operator", inputs, [helper.make_tensor_value_info("slope", 1, rois.shape)])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("calibox", 1)]
    model = helper.make_model(graph, functions=[prroi_pool_grad_function()], opset_imports=opsets, ir_version=10)
    (found,) = session(model).run(None, {name: tensor.numpy() for name, tensor in values.items()})
    assert isinstance(found, np.ndarray)
    return torch.from_numpy(found)


@pytest.mark.parametrize("images", [1, 3])
def test_the_gradient_of_pooling_equals_torch(images: int) -> None:
    generator = torch.Generator().manual_seed(images)
    features = torch.randn(images, 5, 13, 17, generator=generator)
    corner = torch.rand(images, 9, 2, generator=generator) * 120 - 10
    rois = torch.cat([corner, corner + torch.rand(images, 9, 2, generator=generator) * 80], dim=2)
    rois[:, 0] = torch.tensor([8.0, 8, 8, 40])  # no width
    rois[:, 1] = torch.tensor([40.0, 8, 8, 40])  # inverted
    rois[:, 2] = torch.tensor([500.0, 500, 540, 560])  # outside
    gradient = torch.randn(images, 9, 5, *BINS, generator=generator)
    flat = rois.reshape(-1, 4).clone().requires_grad_()
    pooled = prroi_pool(features, flat, torch.arange(images).repeat_interleave(9), BINS, 1 / 8)
    (expected,) = torch.autograd.grad(pooled, flat, gradient.reshape(pooled.shape))
    found = gradient_by_runtime(features, rois, gradient)
    torch.testing.assert_close(found.reshape(-1, 4), expected, rtol=1e-4, atol=1e-4)
    assert float(found[:, :3].abs().max()) == 0
    assert float(found[:, 3:].abs().mean()) > 0.05


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 40])
def test_predicted_iou_equals_torch_on_every_level(images: int, count: int) -> None:
    maps, boxes = random_maps(images), random_boxes(images, count)
    p = np.zeros((images, count, CLASSES), np.float32)
    (found,) = quality_session().run(None, feeds(maps, boxes, p=p))
    if count == 40:
        assert set(LEVELS.of_boxes(boxes.reshape(-1, 4)).tolist()) == {0, 1, 2}
    torch.testing.assert_close(torch.from_numpy(np.asarray(found)), quality_by_torch(maps, boxes), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", [RefinementSpec(), RefinementSpec(step_size=3.0), RefinementSpec(keep_worse=True)])
def test_refinement_equals_torch(spec: RefinementSpec) -> None:
    maps, boxes, labels = random_maps(3), random_boxes(3, 20), torch.arange(60).reshape(3, 20) % CLASSES
    found, iou = refined_by_runtime(maps, boxes, labels, [5, 5, 99], spec)
    expected = refined_by_torch(maps, boxes, labels, spec)
    assert len(set(expected.steps_R.tolist())) > 2  # some stop early
    assert float((expected.boxes_R4 - boxes.reshape(-1, 4)).abs().max()) > 1
    # Paths of five steps on hills that are as steep as random weights make them.
    torch.testing.assert_close(found.reshape(-1, 4), expected.boxes_R4, rtol=0, atol=0.01)
    torch.testing.assert_close(iou.reshape(-1), ((expected.output_R + 1) / 2).clamp(0, 1), rtol=0, atol=1e-4)


def test_openvino_refines_as_onnx_runtime_does() -> None:
    """By a product with the second layer's weight, which is square, and one with its transpose."""
    maps, boxes, labels = random_maps(2), random_boxes(2, 20), torch.arange(40).reshape(2, 20) % CLASSES
    stage = refine_stage(PREDICTOR, LEVELS, RefinementSpec(), height=SIZE[0], width=SIZE[1])
    compiled = ov.Core().compile_model(openvino_model(stage), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    others = {"labels": labels.int().numpy(), "refine_steps": np.array([5, 2], np.int32)}
    values = feeds(maps, boxes, **others, q=np.full(labels.shape, 0.25, np.float32))
    found = compiled({name: values[name] for name in input_names(compiled)})
    expected = refined_by_runtime(maps, boxes, labels, [5, 2], RefinementSpec())
    assert float((expected[0] - boxes).abs().max()) > 1
    for one, other in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=0, atol=1e-3)


def test_each_image_takes_its_own_number_of_steps() -> None:
    maps, boxes, labels = random_maps(3), random_boxes(3, 12), torch.arange(36).reshape(3, 12) % CLASSES
    found, _ = refined_by_runtime(maps, boxes, labels, [1, 2, 5], RefinementSpec())
    for image, steps in enumerate((1, 2, 5)):
        expected = refined_by_torch(maps, boxes, labels, RefinementSpec(steps=steps)).boxes_R4.reshape(boxes.shape)
        torch.testing.assert_close(found[image], expected[image], rtol=0, atol=0.01)


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_leave_an_image_alone_to_the_bit(steps: int) -> None:
    maps, boxes, labels = random_maps(2), random_boxes(2, 12), torch.zeros(2, 12)
    boxes[0, 0] = torch.tensor([-5.0, 3, 2, 700])  # not even cut to the image
    found, iou = refined_by_runtime(maps, boxes, labels, [steps, 5], RefinementSpec())
    assert torch.equal(found[0], boxes[0])
    assert torch.equal(iou[0], torch.full((12,), 0.25))
    assert not torch.equal(found[1], boxes[1])
    alone, _ = refined_by_runtime(random_maps(2), boxes, labels, [steps, steps], RefinementSpec())
    assert torch.equal(alone, boxes)


def test_padding_stays_as_it_is() -> None:
    boxes, labels = torch.zeros(1, 4, 4), torch.full((1, 4), -1)
    boxes[0, 0], labels[0, 0] = torch.tensor(BOX), 1
    found, iou = refined_by_runtime(random_maps(1), boxes, labels, [5], RefinementSpec(), q=0.0)
    assert not torch.equal(found[0, 0], boxes[0, 0])
    assert float(found[0, 1:].abs().max()) == float(iou[0, 1:].abs().max()) == 0


def test_a_batch_and_a_set_without_boxes_pass_through_the_same_lines() -> None:
    for images, count in ((0, 5), (2, 0)):
        found, iou = refined_by_runtime(
            random_maps(images), random_boxes(images, count), torch.zeros(images, count), [5] * images, RefinementSpec()
        )
        assert (found.shape, iou.shape) == ((images, count, 4), (images, count))


def test_the_graphs_are_made_of_standard_operators_and_two_functions() -> None:
    for stage in (
        predictor_stage(PREDICTOR, LEVELS, height=SIZE[0], width=SIZE[1]),
        refine_stage(PREDICTOR, LEVELS, RefinementSpec(), height=SIZE[0], width=SIZE[1]),
    ):
        used = {(node.domain, node.op_type) for node in all_nodes(stage.graph)}
        assert {op for domain, op in used if domain == "calibox"} <= {"PrRoIPool", "PrRoIPoolGrad"}
        assert all(onnx.defs.has(op) for domain, op in used if domain == "")
        assert all({node.domain for node in function.node} == {""} for function in stage.functions)


def all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Those of subgraphs included."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [*graph.node, *(node for body in inner for node in all_nodes(body))]


@pytest.mark.parametrize(("size", "read"), [((256, 256), {"map_0", "map_1"}), ((200, 200), {"map_0"})])
def test_maps_that_no_box_in_the_image_belongs_to_are_not_read(size: tuple[int, int], read: set[str]) -> None:
    # FPN: P4 from sides of 224 px on, P5 from 448.
    stage = predictor_stage(PREDICTOR, LEVELS, height=size[0], width=size[1])
    names = {name for node in all_nodes(stage.graph) for name in node.input}
    assert names & {"map_0", "map_1", "map_2"} == read


def network_with_maps() -> onnx.ModelProto:
    """The tiny network without its q, with its features as three maps."""
    network = tiny_network()
    del network.graph.output[2]
    for level, name in enumerate(("map_0", "map_1", "map_2")):
        side = 2**level
        before = "features" if level == 0 else f"map_{level - 1}"
        kernel = {} if level == 0 else {"kernel_shape": [2, 2], "strides": [2, 2]}
        network.graph.node.append(helper.make_node("AveragePool" if kernel else "Identity", [before], [name], **kernel))
        shape = [BATCH, 16, 12 // side, 16 // side]
        network.graph.output.append(helper.make_tensor_value_info(name, 1, shape))
    return network


def composed(network: onnx.ModelProto) -> onnx.ModelProto:
    attributes = NmsAttributes(out_score="classification_clustered", pre_nms_top_k=60, max_detections=20)
    predictor = hilly_predictor(width=16, pooled=3, features=16, classes=3)
    return bundle_graph(network, predictor, LEVELS, attributes=attributes, refinement=RefinementSpec())


def test_a_bundle_keeps_refines_and_reports_as_the_contract_says() -> None:
    runtime = session(composed(network_with_maps()))
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 3), np.uint8)
    inputs = {
        "images": images,
        "fusion": np.array([[0, 1, 0]] * 2, np.float32),
        "score_threshold": np.zeros(2, np.float32),
        "iou_threshold": np.full(2, 0.5, np.float32),
    }
    names = [value.name for value in runtime.get_outputs()]
    plain, refined = (
        dict(zip(names, runtime.run(None, inputs | {"refine_steps": np.array(steps, np.int32)}), strict=True))
        for steps in ([0, 0], [5, 0])
    )
    assert (plain["num_detections"] > 5).all()
    rows = int(plain["num_detections"][0])
    assert (np.diff(plain["localization_scores"][0, :rows]) <= 0).all()  # ranked by predicted IoU
    assert (plain["scores"] >= plain["classification_scores"]).all()  # clustered
    for name in set(names) - {"boxes", "localization_scores"}:
        np.testing.assert_array_equal(plain[name], refined[name])
    np.testing.assert_array_equal(plain["boxes"][1], refined["boxes"][1])
    assert np.abs(plain["boxes"][0] - refined["boxes"][0]).max() > 0.1


def test_a_network_without_its_maps_is_refused() -> None:
    with pytest.raises(ExportError, match=r"outputs \('boxes', 'p', 'map_0', 'map_1', 'map_2'\).*got"):
        composed(tiny_network())


def answers(boxes: list[list[float]], iou: list[float]) -> dict[str, np.ndarray]:
    return {
        "boxes": np.array([boxes], np.float32),
        "labels": np.array([[0] * len(boxes)], np.int32),
        "localization_scores": np.array([iou], np.float32),
    }


def test_a_box_that_ends_elsewhere_is_different_unless_a_nudge_moves_torchs_end_as_well() -> None:
    start, images = [[0.0, 0, 10, 10], [20, 20, 40, 40]], np.zeros((1, 96, 128, 3), np.uint8)
    before, steps = answers(start, [0.5, 0.5]), mixed_steps(1, 5)

    def refiner(_: object, boxes: np.ndarray, *__: object) -> tuple[np.ndarray, np.ndarray]:
        """Moves the first box by 1; the second by 1, and by 2 where it starts a hair lower."""
        moved = boxes + np.where(boxes[..., :1] == np.float32(20 - 1e-3), 2, 1).astype(np.float32)
        return moved, np.full(boxes.shape[:2], 0.6, np.float32)

    def compared(first: float, second: float) -> tuple[int, int, int]:
        after = answers([[v + first for v in start[0]], [v + second for v in start[1]]], [0.6, 0.6])
        found = compare_refined(images, steps, before, after, refiner)
        return found.compared, found.excused, found.different

    assert compared(1.0, 1.0) == (2, 0, 0)
    assert compared(1.02, 1.0) == (1, 0, 1)
    assert compared(1.0, 2.0) == (1, 1, 0)

"""Precise RoI pooling as an ONNX function, run by ONNX Runtime, against torch."""

from functools import lru_cache

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor

from calibox_export.prroi_pool import prroi_pool_function, prroi_pool_model
from calibox_training.iou_net.prroi_pool import prroi_pool

SCALE = 1 / 8


@lru_cache(maxsize=4)
def session(output_size: tuple[int, int]) -> ort.InferenceSession:
    model = prroi_pool_model(output_size=output_size, spatial_scale=SCALE)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def pooled_by_runtime(features: Tensor, rois: Tensor, output_size: tuple[int, int]) -> Tensor:
    feeds = {"features": features.numpy(), "rois": rois.numpy()}
    (pooled,) = session(output_size).run(None, feeds)
    assert isinstance(pooled, np.ndarray)
    return torch.from_numpy(pooled)


def pooled_by_torch(features: Tensor, rois: Tensor, output_size: tuple[int, int]) -> Tensor:
    images, count = rois.shape[:2]
    image = torch.arange(images).repeat_interleave(count)
    pooled = prroi_pool(features, rois.reshape(-1, 4), image, output_size, SCALE)
    return pooled.reshape(images, count, features.shape[1], *output_size)


def random_rois(images: int, count: int, generator: torch.Generator) -> Tensor:
    """Some reach over the edge of a 104x136 image."""
    corner = torch.rand(images, count, 2, generator=generator) * 120 - 10
    return torch.cat([corner, corner + torch.rand(images, count, 2, generator=generator) * 80], dim=2)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 4, 33])
@pytest.mark.parametrize("output_size", [(7, 7), (2, 3)])
def test_equals_torch(images: int, count: int, output_size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(10 * images + count)
    features = torch.randn(images, 5, 13, 17, generator=generator)
    rois = random_rois(images, count, generator)
    found = pooled_by_runtime(features, rois, output_size)
    # Edges of bins carry the rounding of coordinates of about 20 pixels of the map.
    torch.testing.assert_close(found, pooled_by_torch(features, rois, output_size), rtol=0, atol=1e-5)


def test_zero_areas_inverted_boxes_and_nan_give_zero_beside_others() -> None:
    rois = torch.tensor(
        [[[8.0, 8, 8, 40], [40, 8, 8, 40], [float("nan"), 8, 20, 40], [0, 0, 1e9, 1e9], [8, 8, 16, 16]]]
    )
    features = torch.ones(1, 2, 13, 17)
    found = pooled_by_runtime(features, rois, (2, 2))
    assert float(found[0, :3].abs().max()) == 0
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0, 4], torch.ones(2, 2, 2))
    torch.testing.assert_close(found, pooled_by_torch(features, rois, (2, 2)), rtol=0, atol=1e-5)


def test_the_body_is_made_of_standard_operators_of_opset_20() -> None:
    function = prroi_pool_function()
    assert {node.domain for node in function.node} == {""}
    assert [(entry.domain, entry.version) for entry in function.opset_import] == [("", 20)]
    assert all(onnx.defs.has(node.op_type) for node in function.node)


def test_the_node_says_what_a_plugin_needs() -> None:
    (node,) = prroi_pool_model(output_size=(7, 5), spatial_scale=0.25).graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    assert attributes == {
        "pooled_height": 7,
        "pooled_width": 5,
        "spatial_scale": 0.25,
        "plugin_version": b"1",
        "plugin_namespace": b"calibox",
    }

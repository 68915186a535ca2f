"""The pooling kernel that ships, on the CPU, against torch in float64: generated cases and corners, and refusals."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibox_export.kernels.library import KernelError
from calibox_export.kernels.pooling import PoolingLibrary
from calibox_export.prroi_pool import prroi_pool_model
from tests.support.kernel_build import build_host_library
from tests.support.pool_cases import PoolCase, assert_pooled, generated_pool


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> PoolingLibrary:
    return PoolingLibrary(build_host_library(tmp_path_factory.mktemp("pooling")))


def pooled(library: PoolingLibrary, case: PoolCase) -> np.ndarray:
    maps, rois = torch.from_numpy(case.maps), torch.from_numpy(case.rois)
    return library.pool(maps, rois, case.output_size, case.spatial_scale).numpy()


def test_the_kernel_equals_torch(pooling: PoolingLibrary) -> None:
    @given(seed=st.integers(0, 2**32 - 1), rois=st.sampled_from((0, 1, 7, 20)))
    @settings(max_examples=60)
    def holds(seed: int, rois: int) -> None:
        case = generated_pool(seed, rois=rois)
        assert_pooled(pooled(pooling, case), case)

    holds()


def test_the_kernel_equals_the_function_of_the_graph(pooling: PoolingLibrary) -> None:
    scale, generator = 1 / 8, torch.Generator().manual_seed(0)
    maps = torch.randn(2, 5, 13, 17, generator=generator)
    corner = torch.rand(2, 20, 2, generator=generator) * 120 - 10
    rois = torch.cat([corner, corner + torch.rand(2, 20, 2, generator=generator) * 80], dim=2)
    model = prroi_pool_model(output_size=(7, 7), spatial_scale=scale)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (by_function,) = session.run(None, {"features": maps.numpy(), "rois": rois.numpy()})
    # Edges of bins carry the rounding of coordinates of about 20 pixels of the map.
    np.testing.assert_allclose(pooling.pool(maps, rois, (7, 7), scale).numpy(), by_function, rtol=0, atol=1e-5)


def test_a_bin_worked_out_by_hand(pooling: PoolingLibrary) -> None:
    """From 0.5 to 1.5 along x hats 0, 1 and 2 weigh 1/8, 3/4 and 1/8; along y from 0 to 1, 1/2 and 1/2."""
    maps = torch.tensor([[[[8.0, 4, 0], [0, 16, 8]]]])
    found = pooling.pool(maps, torch.tensor([[[1.0, 0, 3, 2]]]), (1, 1), 0.5)
    # Row 0: 8/8 + 4 * 3/4 = 4; row 1: 16 * 3/4 + 8/8 = 13; their mean.
    assert found.tolist() == [[[[[8.5]]]]]


def test_more_features_than_a_block_serves(pooling: PoolingLibrary) -> None:
    """65 features are three groups of blocks, of which the last holds one."""
    maps = torch.arange(65.0)[None, :, None, None].expand(1, 65, 4, 4)
    found = pooling.pool(maps, torch.tensor([[[1.0, 1, 2, 2]]]), (2, 2), 1.0)
    torch.testing.assert_close(found[0, 0], torch.arange(65.0)[:, None, None].expand(65, 2, 2))


def test_views_are_made_dense(pooling: PoolingLibrary) -> None:
    maps = torch.randn(1, 3, 5, 6).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[[0.0, 1, 4, 3]]])
    same = pooling.pool(maps.contiguous(), rois, (2, 2), 1.0)
    torch.testing.assert_close(pooling.pool(maps, rois, (2, 2), 1.0), same, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4)])
def test_nothing_gives_an_empty_answer(pooling: PoolingLibrary, shape: tuple[int, ...]) -> None:
    found = pooling.pool(torch.ones(shape), torch.ones(shape[0], 5, 4), (7, 7), 0.25)
    assert found.shape == (shape[0], 5, shape[1], 7, 7)


@pytest.mark.parametrize(
    ("output_size", "scale", "words"),
    [((0, 7), 1.0, "Sizes"), ((7, 3000), 1.0, "at most 12,288"), ((7, 7), 0.0, "spatial_scale must be above 0")],
)
def test_what_is_outside_the_limits_is_refused(
    pooling: PoolingLibrary, output_size: tuple[int, int], scale: float, words: str
) -> None:
    with pytest.raises(KernelError, match=words):
        pooling.pool(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4), output_size, scale)


@pytest.mark.parametrize(
    ("maps", "rois", "words"),
    [
        (torch.ones(1, 2, 3), torch.ones(1, 1, 4), r"features must be \[B, F, H, W\] .* got \[1, 2, 3\] in float32"),
        (torch.ones(1, 2, 3, 3).double(), torch.ones(1, 1, 4), "got .* in float64"),
        (torch.ones(2, 2, 3, 3), torch.ones(1, 1, 4), r"rois must be \[2, K, 4\] in float32"),
        (torch.ones(1, 2, 3, 3), torch.ones(1, 1, 4).half(), "in float16"),
    ],
)
def test_other_shapes_and_types_are_refused(
    pooling: PoolingLibrary, maps: torch.Tensor, rois: torch.Tensor, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        pooling.pool(maps, rois, (2, 2), 1.0)


def test_a_library_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match=r"cannot be loaded .* build it as docs/plugin.md says"):
        PoolingLibrary(tmp_path / "nothing.so")

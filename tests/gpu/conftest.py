"""Tests in this folder need a CUDA device; elsewhere they are skipped with that reason."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu.environment import tool
from benchmarks.gpu.setup import Setup
from benchmarks.gpu.steps import run


@pytest.fixture(scope="session")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """The kernels, compiled for this machine's device."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is false, so the kernels did not run on a GPU")
    if tool("nvcc") is None:
        pytest.skip("no nvcc: the kernels cannot be built for the CUDA device")
    here = Setup(host=False, build=Path(tmp_path_factory.mktemp("cuda")))
    built = run("build", here)
    assert built.status == "passed", built.why
    return here

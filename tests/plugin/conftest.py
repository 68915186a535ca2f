"""The host build of the kernels, compiled once per run of the tests."""

import pytest

from calibox_export.kernels.library import KernelLibrary
from tests.support.kernel_build import build_host_library


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(build_host_library(tmp_path_factory.mktemp("kernels")))

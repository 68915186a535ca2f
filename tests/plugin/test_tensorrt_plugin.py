"""The TensorRT plugin over the host build: a program makes the calls that TensorRT makes, `enqueue` among them.

`TENSORRT_ROOT` names a TensorRT 10.7 or later (its headers are enough). With `CALIBOX_TENSORRT_LIBRARY`, the path of a
libnvinfer or libnvinfer_lean, that TensorRT's own plugin registry loads the library.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.kernel_build import ROOT, compiler
from tests.support.kernel_calls import answers, call_bytes, generated
from tests.support.nms_answers import assert_reference_answers
from tests.support.pool_cases import assert_pooled, generated_pool, pool_answers, pool_bytes

CASES = 12
REGISTRY_VARIABLE = "CALIBOX_TENSORRT_LIBRARY"


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a CMake build of the plugin and its host program, without CUDA kernels."""
    if not os.environ.get("TENSORRT_ROOT"):
        pytest.skip("no TensorRT headers: TENSORRT_ROOT is not set, so the plugin is not compiled")
    if shutil.which("cmake") is None:
        pytest.skip("no cmake: the plugin is not compiled")
    folder = tmp_path_factory.mktemp("plugin")
    command = ["cmake", "-S", ROOT / "trt_plugins", "-B", folder, "-DCALIBOX_CUDA=OFF"]
    configured = run(*command, f"-DCMAKE_CXX_COMPILER={compiler()}")
    if "The TensorRT plugin is not built" in configured.stdout:
        pytest.skip("TENSORRT_ROOT or the CUDA toolkit holds no headers, so the plugin is not compiled")
    built = run("cmake", "--build", folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_suppression(build: Path, folder: Path, *more: str) -> str:
    """Every answer is the reference's; returns what the program printed."""
    cases = [generated(seed) for seed in range(CASES)]
    printed, found = host(build, folder, "nms", b"".join(map(call_bytes, cases)), *more)
    for case, one in zip(cases, answers(found, cases), strict=True):
        assert_reference_answers(one, case)
    return printed


def check_pooling(build: Path, folder: Path, *more: str) -> str:
    """As `check_suppression`."""
    cases = [generated_pool(seed) for seed in range(CASES)]
    printed, found = host(build, folder, "pool", b"".join(map(pool_bytes, cases)), *more)
    for case, one in zip(cases, pool_answers(found, cases), strict=True):
        assert_pooled(one, case)
    return printed


def host(build: Path, folder: Path, operator: str, calls: bytes, *more: str) -> tuple[str, bytes]:
    """What the program printed, and the answers that it wrote."""
    (folder / "calls").write_bytes(calls)
    library = build / "libcalibox_trt_plugins_host.so"
    done = run(build / "calibox_plugin_host", operator, library, folder / "calls", folder / "answers", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, (folder / "answers").read_bytes()


def test_the_suppression_answers_as_the_reference_and_names_bad_attributes(build: Path, tmp_path: Path) -> None:
    printed = check_suppression(build, tmp_path)
    assert "logged: CalibratedNMS: pre_nms_top_k must be 1..3840; give every attribute" in printed


def test_the_pooling_answers_as_torch_and_names_bad_attributes(build: Path, tmp_path: Path) -> None:
    printed = check_pooling(build, tmp_path)
    assert "logged: PrRoIPool: spatial_scale must be above 0; give every attribute" in printed


def test_tensorrts_registry_finds_both_creators(build: Path, tmp_path: Path) -> None:
    library = os.environ.get(REGISTRY_VARIABLE)
    if not library:
        pytest.skip(f"{REGISTRY_VARIABLE} names no libnvinfer: TensorRT's registry did not load the plugin")
    assert "registry: CalibratedNMS version 1 in calibox" in check_suppression(build, tmp_path, library)
    assert "registry: PrRoIPool version 1 in calibox" in check_pooling(build, tmp_path, library)


def test_the_library_exports_what_tensorrt_asks_for_and_needs_no_tensorrt(build: Path) -> None:
    if shutil.which("nm") is None:
        pytest.skip("no nm: the symbols of the library cannot be listed")
    library = build / "libcalibox_trt_plugins_host.so"
    names = [line.split()[-1] for line in run("nm", "-D", "--defined-only", library).stdout.splitlines()]
    assert names == ["getCreators", "setLoggerFinder"]
    assert "nvinfer" not in run("nm", "-D", "--undefined-only", library).stdout.lower()

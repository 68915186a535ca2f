"""The commands of the Dockerfile's stage `plugin`, run outside of an image."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.deployment import ROOT, stages

LIBRARIES = ("libcalibox_kernels.so", "libcalibox_trt_plugins.so")


def stage_command(preset: str, targets: tuple[str, ...], folder: Path) -> str:
    """The stage's RUN with another preset and other targets, installing into a folder of this machine."""
    command = stages()["plugin"].last("RUN")
    assert command is not None
    for old, new in (
        ("--preset cuda", f"--preset {preset}"),
        ("--target calibox_kernels calibox_trt_plugins", f"--target {' '.join(targets)}"),
        *((f"build/{name}", f"build/lib{target}.so") for name, target in zip(LIBRARIES, targets, strict=False)),
    ):
        assert old in command
        command = command.replace(old, new)
    command = command if len(targets) == len(LIBRARIES) else re.sub(rf" build/{LIBRARIES[1]}", "", command)
    return command.replace("/plugin", str(folder))


def run_in_copy(command: str, scratch: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake")
    sources = scratch / "trt_plugins"
    shutil.copytree(ROOT / "trt_plugins", sources, ignore=shutil.ignore_patterns("build"))
    done = subprocess.run(["bash", "-ec", command], cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow  # compiles for seven architectures
def test_the_stage_compiles_kernels_and_plugin_where_nvcc_and_tensorrts_headers_are(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None or not os.environ.get("TENSORRT_ROOT"):
        pytest.skip("no nvcc, or TENSORRT_ROOT names no headers")
    run_in_copy(stage_command("cuda", ("calibox_kernels", "calibox_trt_plugins"), tmp_path / "out"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(LIBRARIES)
    listed = subprocess.run(["nm", "-D", tmp_path / "out" / LIBRARIES[1]], capture_output=True, text=True, check=True)
    assert "getCreators" in listed.stdout  # what TensorRT asks a library of plugins for


@pytest.mark.slow  # compiles the emulator
def test_the_stage_with_the_host_preset_compiles_the_kernels_for_this_cpu(tmp_path: Path) -> None:
    run_in_copy(stage_command("host", ("calibox_kernels_host",), tmp_path / "out"), tmp_path)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["libcalibox_kernels_host.so"]

"""The CUDA kernels compiled for this machine's CPU, and the program that replays calls of them under a sanitizer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = ROOT / "trt_plugins" / "kernels" / "calibrated_nms.cu"
REPLAY = ROOT / "trt_plugins" / "tests" / "replay.cpp"
# As in trt_plugins/CMakeLists.txt: every float operation rounds once, and longjmp may leave a fibre's stack.
FLAGS = (
    "-std=c++17",
    "-ffp-contract=off",
    "-U_FORTIFY_SOURCE",
    "-Wall",
    "-Wextra",
    "-Wconversion",
    "-Wshadow",
    "-Werror",
)


def compiler() -> str:
    """A C++ compiler; without one the calling test is skipped."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = name and shutil.which(name)
        if found:
            return found
    pytest.skip("no C++ compiler (g++, clang++ or what CXX names): the kernels cannot be built for the CPU")


def build_host_library(folder: Path) -> Path:
    """The host build in ``folder``."""
    library = folder / "libcalibox_kernels_host.so"
    _compile("-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-x", "c++", KERNELS, "-o", library)
    return library


def build_replay(folder: Path, sanitizers: str) -> Path:
    """The replaying program with one std::thread per CUDA thread, watched by ``-fsanitize=<sanitizers>``."""
    program = folder / "replay"
    watched = ("-O1", "-g", "-DCALIBOX_EMULATE_WITH_THREADS", "-pthread", f"-fsanitize={sanitizers}")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    linked = subprocess.run([compiler(), *watched, str(probe), "-o", str(program)], capture_output=True, check=False)
    if linked.returncode != 0:
        pytest.skip(f"the C++ compiler has no -fsanitize={sanitizers}")
    _compile(*watched, "-x", "c++", KERNELS, REPLAY, "-o", program)
    return program


def _compile(*words: str | Path) -> None:
    done = subprocess.run([compiler(), *FLAGS, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

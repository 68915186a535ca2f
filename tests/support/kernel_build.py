"""The CUDA kernels compiled for this machine's CPU, and the program that replays calls of them under a sanitizer."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
KERNELS = tuple(ROOT / "trt_plugins" / "kernels" / f"{name}.cu" for name in ("calibrated_nms", "prroi_pool"))
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


def skip(reason: str) -> NoReturn:
    """Skips the calling test; pytest is no part of the machines on which the host build alone is wanted."""
    import pytest

    pytest.skip(reason)


def compiler() -> str:
    """A C++ compiler; without one the calling test is skipped."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        found = name and shutil.which(name)
        if found:
            return found
    skip("no C++ compiler (g++, clang++ or what CXX names): the kernels cannot be built for the CPU")


def build_host_library(folder: Path) -> Path:
    """The host build in ``folder``."""
    library = folder / "libcalibox_kernels_host.so"
    partly = folder / f".{library.name}"
    _compile("-O2", "-fPIC", "-shared", "-fvisibility=hidden", "-x", "c++", *KERNELS, "-o", partly)
    return partly.replace(library)


def build_host_replay(folder: Path, program: Path, *flags: str) -> Path:
    """The replaying program for the CPU, with more flags for the compiler if any."""
    objects = []
    for source in (*KERNELS, REPLAY):
        objects.append(folder / f"{source.stem}.o")
        _compile("-O1", *flags, "-x", "c++", "-c", source, "-o", objects[-1])
    _compile(*flags, *objects, "-o", program)
    return program


def build_replay(folder: Path, sanitizers: str, *flags: str) -> Path:
    """The replaying program with one std::thread per CUDA thread, watched by ``-fsanitize=<sanitizers>``."""
    watched = ("-g", "-DCALIBOX_EMULATE_WITH_THREADS", "-pthread", f"-fsanitize={sanitizers}")
    probe = folder / "probe.cpp"
    probe.write_text("int main() { return 0; }\n")
    linked = subprocess.run(
        [compiler(), *watched, str(probe), "-o", str(folder / "probe")], capture_output=True, check=False
    )
    if linked.returncode != 0:
        skip(f"the C++ compiler has no -fsanitize={sanitizers}")
    return build_host_replay(folder, folder / "replay", *watched, *flags)


def _compile(*words: str | Path) -> None:
    done = subprocess.run([compiler(), *FLAGS, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The kernels' library and the program that replays calls, for this machine's GPU by nvcc or for its CPU."""

import subprocess
from pathlib import Path

from benchmarks.gpu.environment import tool
from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.setup import Setup
from tests.support.kernel_build import KERNELS, REPLAY, build_host_library, build_host_replay

# Warnings are no errors here, as they are in CMakeLists.txt: a compiler that nobody has tried must not stop the rest.
_FLAGS = ("-std=c++17", "-O3", "-cudart", "static")


def compile_all(setup: Setup, outcome: Outcome) -> None:
    """Both, into the build's folder."""
    setup.build.mkdir(parents=True, exist_ok=True)
    if setup.host:
        build_host_library(setup.build)
        build_host_replay(setup.build, setup.replay)
    else:
        _compile_for_device(setup, outcome)
    for name, path in (("library", setup.library), ("replay", setup.replay)):
        outcome.facts[f"{name}, kB"] = round(path.stat().st_size / 1000)


def _compile_for_device(setup: Setup, outcome: Outcome) -> None:
    import torch

    major, minor = torch.cuda.get_device_capability()
    architecture = f"-arch=sm_{major}{minor}"
    visible = ("-Xcompiler=-fvisibility=hidden,-fPIC", "-shared", "-Xptxas", "-v")
    said = nvcc(architecture, *visible, *KERNELS, "-o", setup.library)
    nvcc(architecture, "-lineinfo", "-x", "cu", REPLAY, *KERNELS, "-o", setup.replay)
    outcome.facts["architecture"] = architecture
    resources = outcome.table("What ptxas says", "kernel", "resources")
    resources += _resources(said)


def nvcc(*words: str | Path) -> str:
    """What it said.

    Raises:
        RuntimeError: it is not there, or it refuses.
    """
    compiler = tool("nvcc")
    if compiler is None:
        raise RuntimeError("nvcc is not on this machine: install a CUDA toolkit of 12.8 or later")
    done = subprocess.run([compiler, *_FLAGS, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"nvcc fails:\n{done.stderr[-3000:]}")
    return done.stdout + done.stderr


def _resources(said: str) -> list[list[str]]:
    """Rows of kernel, registers and spills from ``-Xptxas -v``."""
    rows: list[list[str]] = []
    for line in said.splitlines():
        text = line.replace("ptxas info    :", "").strip()
        if "Compiling entry function" in text:
            rows.append([text.split("'")[1], ""])
        elif rows and ("registers" in text or "spill" in text):
            rows[-1][1] += (", " if rows[-1][1] else "") + text
    return rows

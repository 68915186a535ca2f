"""Facts about the machine, without which a figure says nothing."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from benchmarks.gpu.outcome import Outcome
from benchmarks.gpu.setup import ROOT, Setup

_TOOLKIT = Path("/usr/local/cuda/bin")
_QUERY = "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem,clocks.sm,temperature.gpu"


def tool(name: str) -> str | None:
    """A program of the CUDA toolkit, or any."""
    places = os.pathsep.join((os.environ.get("PATH", ""), str(_TOOLKIT)))
    return shutil.which(name, path=places)


def describe(setup: Setup, outcome: Outcome) -> None:
    """Versions, the device, and the commit if this is a checkout."""
    import numpy
    import torch
    import torchvision

    facts = outcome.facts
    facts |= {"machine": platform.platform(), "cores": os.cpu_count(), "Python": platform.python_version()}
    facts |= {"numpy": numpy.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
    facts["torch's CUDA"] = str(torch.version.cuda)
    facts["commit"] = _said("git", "-C", str(ROOT), "log", "-1", "--format=%h %cs")
    facts["nvcc"] = _said("nvcc", "--version").splitlines()[-1]
    facts["nvidia-smi"] = _said("nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv")
    if not setup.host:
        device = torch.cuda.get_device_properties(0)
        facts["device"] = f"{device.name}, compute capability {device.major}.{device.minor}"
        facts["multiprocessors"] = device.multi_processor_count
        facts["memory, GiB"] = device.total_memory / 2**30
        facts["L2, MB"] = device.L2_cache_size / 1e6


def _said(*command: str) -> str:
    program = tool(command[0])
    if program is None:
        return f"{command[0]} is not on this machine"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    return (done.stdout if done.returncode == 0 else done.stderr).strip() or "said nothing"

"""What this machine can do for a training run, asked before the run starts."""

import torch

from calibox_core.errors import CaliboxError


class RunError(CaliboxError):
    """A run cannot start as asked."""


def device_type(accelerator: str) -> str:
    """Torch's name of the kind of device that Lightning takes for ``accelerator``: cuda, mps or cpu."""
    if accelerator in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return {"cuda": "cuda", "mps": "mps"}.get(accelerator, "cpu")


def require_precision(precision: str, device: str) -> None:
    """Half precision needs a GPU.

    Raises:
        RunError: fp16 on a CPU.
    """
    if precision == "16-mixed" and device == "cpu":
        raise RunError(
            "precision 16-mixed (fp16) is for GPUs, and this run is on the CPU; take bf16-mixed or 32-true "
            "(--precision, or schedule.precision in the recipe)"
        )


def require_compiler(device: str) -> None:
    """Compiles one addition, to learn now and not in the first step whether torch.compile works here.

    Raises:
        RunError: it does not; the text carries torch's reason.
    """
    try:
        torch.compile(_add_one)(torch.zeros(8, device=device))
    except Exception as error:  # torch.compile raises what its compilers raise: OS, runtime and its own errors
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise RunError(
            f"--compile cannot work here: {reason.strip()}. On a CPU torch.compile needs a C++ compiler (g++, "
            "clang), on a GPU Triton; leave --compile out to train without"
        ) from error


def _add_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1

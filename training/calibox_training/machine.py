"""What this machine can do for a training run, asked before the run starts."""

import torch

from calibox_core.errors import CaliboxError


class RunError(CaliboxError):
    """A run cannot start as asked."""


ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")  # of Lightning's names, those that this project's code can use


def device_type(accelerator: str) -> str:
    """Torch's name of the kind of device that Lightning takes for ``accelerator``: cuda, mps or cpu.

    Raises:
        RunError: an unknown name, or no such device here.
    """
    if accelerator not in ACCELERATORS:
        raise RunError(f"--accelerator must be one of {', '.join(ACCELERATORS)}, got {accelerator}")
    if accelerator == "cpu":
        return "cpu"
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    fits = {"auto": True, "gpu": found != "cpu"}.get(accelerator, found == accelerator)
    if not fits:
        raise RunError(f"--accelerator {accelerator}: torch {torch.__version__} sees no such device; take cpu or auto")
    return found


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

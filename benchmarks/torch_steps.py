"""What benchmarks of torch code share: a step, the wait for its device, its profile."""

from collections.abc import Callable

import torch

Step = Callable[[], None]
ROWS = 14  # of a profile


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def print_profile(name: str, step: Step, device: str) -> None:
    """The operators that one step spends most on."""
    with torch.profiler.profile() as profile:
        step()
    order = "self_cuda_time_total" if device == "cuda" else "self_cpu_time_total"
    print(f"\n{name}\n{profile.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=40)}")

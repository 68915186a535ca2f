"""Totals over the processes of a distributed run; the value itself in a run of one."""

import torch.distributed as dist
from torch import Tensor


def summed(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def over_processes(total: Tensor) -> Tensor:
    """Mean per process, as a divisor of losses: gradients are averaged over processes afterwards."""
    if dist.is_available() and dist.is_initialized():
        return summed(total) / dist.get_world_size()
    return total

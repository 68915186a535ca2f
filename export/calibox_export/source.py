"""The network behind a bundle, rebuilt from its checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from calibox_training.checkpoint import TrainedModel, load_checkpoint
from calibox_training.inference import CandidateGraph


@dataclass(frozen=True, slots=True)
class Source:
    """A trained network as it goes into the graph."""

    trained: TrainedModel
    network: CandidateGraph
    cut_levels: tuple[slice, ...]  # anchors of the levels that the network cuts to their best


def load_source(checkpoint: Path) -> Source:
    """Reads a checkpoint of `calibox train`.

    Raises:
        CheckpointError: it cannot be read, or was written by something else.
    """
    return source_of(load_checkpoint(checkpoint))


def source_of(trained: TrainedModel) -> Source:
    """The candidate graph of a trained model, in eval mode."""
    recipe = trained.recipe
    network = CandidateGraph(
        trained.detector,
        height=recipe.input.height,
        width=recipe.input.width,
        per_level_top_k=recipe.per_level_top_k,
    ).eval()
    return Source(trained, network, cut_levels(network.counts, recipe.per_level_top_k))


def cut_levels(counts: Sequence[int], per_level_top_k: int) -> tuple[slice, ...]:
    """Where the levels with more than ``per_level_top_k`` of their ``counts`` anchors lie among the chosen anchors."""
    cut, start = [], 0
    for count in counts:
        end = start + min(count, per_level_top_k)
        if count > per_level_top_k:
            cut.append(slice(start, end))
        start = end
    return tuple(cut)


def run_network(
    network: nn.Module, images: NDArray[np.uint8], fusion: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Boxes, p and q of a batch, as arrays."""
    with torch.inference_mode():
        found = network(torch.from_numpy(images), torch.from_numpy(fusion))
    return tuple(tensor.numpy() for tensor in found)

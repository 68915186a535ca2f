"""The network behind a bundle, rebuilt from its checkpoint."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from calibox_export.level_cut import LevelCut, level_cuts
from calibox_training.checkpoint import TrainedModel, load_checkpoint
from calibox_training.inference import CandidateGraph


@dataclass(frozen=True, slots=True)
class Source:
    """A trained network as it goes into the graph."""

    trained: TrainedModel
    network: CandidateGraph
    uncut: CandidateGraph  # the same with all anchors of every level
    cuts: tuple[LevelCut, ...]  # what the network leaves out of them


def load_source(checkpoint: Path) -> Source:
    """Reads a checkpoint of `calibox train`.

    Raises:
        CheckpointError: it cannot be read, or was written by something else.
    """
    return source_of(load_checkpoint(checkpoint))


def source_of(trained: TrainedModel) -> Source:
    """The candidate graph of a trained model, in eval mode."""
    recipe = trained.recipe
    build = partial(CandidateGraph, trained.detector, height=recipe.input.height, width=recipe.input.width)
    network = build(per_level_top_k=recipe.per_level_top_k).eval()
    uncut = build(per_level_top_k=sum(network.counts)).eval()
    return Source(trained, network, uncut, level_cuts(network.counts, recipe.per_level_top_k))


def run_network(
    network: nn.Module, images: NDArray[np.uint8], fusion: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Boxes, p and q of a batch, as arrays."""
    with torch.inference_mode():
        found = network(torch.from_numpy(images), torch.from_numpy(fusion))
    return tuple(tensor.numpy() for tensor in found)

"""The network behind a bundle, rebuilt from its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from calibox_core.manifest import Manifest
from calibox_export.description import describe
from calibox_export.graph import attach_calibrated_nms
from calibox_export.iou_net.part import BY_CLASS_SCORE, IouNetPart, iou_net_graph, with_iou_net
from calibox_export.iou_net.reference import IouNetReference
from calibox_export.iou_net.refined import Refiner
from calibox_export.level_cut import LevelCut, level_cuts
from calibox_export.network import network_graph
from calibox_export.parity import Network
from calibox_training.checkpoint import TrainedModel, load_checkpoint
from calibox_training.inference import CandidateGraph


class Reference(NamedTuple):
    """A network in torch, as `compare_batch` takes it."""

    network: Network | None  # None for a detector that torch cannot run
    cuts: tuple[LevelCut, ...]
    refiner: Refiner | None


@dataclass(frozen=True, slots=True)
class Source:
    """A trained network as it goes into the graph."""

    trained: TrainedModel
    network: CandidateGraph
    uncut: CandidateGraph  # the same with all anchors of every level
    cuts: tuple[LevelCut, ...]  # what the network leaves out of them
    iou_net: IouNetPart | None = None  # its quality network

    def manifest(self, *, name: str, version: str) -> Manifest:
        """Of the bundle, before its files are known.

        Raises:
            InvalidParameterError: the name is no folder name of a model, or the version no whole number from 1.
        """
        plain = describe(self.trained, name=name, version=version)
        return plain if self.iou_net is None else with_iou_net(plain, self.iou_net)

    def graph(self, manifest: Manifest, metadata: Mapping[str, str]) -> onnx.ModelProto:
        """The graph that the manifest describes.

        Raises:
            ExportError: torch cannot trace the network, or the graph does not follow the contract.
        """
        if self.iou_net is not None:
            return iou_net_graph(self.iou_net, manifest, metadata)
        return attach_calibrated_nms(
            network_graph(self.network, height=manifest.input.height, width=manifest.input.width),
            manifest.nms,
            quality_per_class=manifest.quality.per_class,
            metadata=metadata,
        )

    def reference(self) -> Reference:
        """What its graph is held against."""
        if self.iou_net is None:
            return Reference(partial(run_network, self.uncut), self.cuts, None)
        both = IouNetReference(self.iou_net, self.uncut)
        return Reference(both.network, self.cuts, both.refined)


def load_source(checkpoint: Path) -> Source:
    """Reads a checkpoint of `calibox train`.

    Raises:
        CheckpointError: it cannot be read, or was written by something else.
    """
    return source_of(load_checkpoint(checkpoint))


def source_of(trained: TrainedModel, iou_net: IouNetPart | None = None) -> Source:
    """The candidate graph of a trained model, in eval mode.

    Args:
        trained: the detector.
        iou_net: its quality network; then the best of all levels by classification score go on, as many as it says.
    """
    recipe = trained.recipe
    build = partial(CandidateGraph, trained.detector, height=recipe.input.height, width=recipe.input.width)
    network = build(per_level_top_k=recipe.per_level_top_k).eval()
    anchors = sum(network.counts)
    cuts = level_cuts(network.counts, recipe.per_level_top_k)
    if iou_net is not None:
        cuts = tuple(cut._replace(exponents=BY_CLASS_SCORE) for cut in level_cuts([anchors], iou_net.boxes))
    return Source(trained, network, build(per_level_top_k=anchors).eval(), cuts, iou_net)


def run_network(
    network: nn.Module, images: NDArray[np.uint8], fusion: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """Boxes, p and q of a batch, as arrays."""
    with torch.inference_mode():
        found = network(torch.from_numpy(images), torch.from_numpy(fusion))
    return tuple(tensor.numpy() for tensor in found)

"""The places of the chain that run in this process: PyTorch, ONNX Runtime, and engines."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibox_core.bundle import Bundle
from calibox_core.engines import read_engine
from calibox_core.manifest import Manifest
from calibox_export.chain.answers import Answer, answer_of_graph, answer_of_network
from calibox_export.engines.accuracy import Placed, own_setting
from calibox_export.engines.agreement import open_engine
from calibox_export.parity import Graph, Network, graph_feeds, open_graph
from calibox_export.verify import load_reference

PYTORCH = "pytorch"
Ask = Callable[[Placed], Answer]


@dataclass(frozen=True, slots=True)
class Stage:
    """A place that answers can be taken from."""

    name: str
    version: str
    opened: Callable[[], AbstractContextManager[Ask]]  # raises EngineError where it cannot be used here
    before: str | None = None  # the place that it is held against; None is where the chain begins
    exact: bool = True  # whether it must give the same answer


def torch_stage(bundle: Bundle, checkpoint: Path, iou_net: Path | None) -> Stage | None:
    """The network in PyTorch with the reference of the operator behind it; None where PyTorch cannot run it.

    Raises:
        ExportError: the checkpoint is of another model, or the bundle is of a lower precision than any checkpoint.
    """
    import torch

    reference = load_reference(checkpoint, iou_net, bundle.manifest)
    network, manifest = reference.network, bundle.manifest
    if network is None:
        return None

    def ask(image: Placed, network: Network = network) -> Answer:
        fusion = np.array([own_setting(manifest).exponents], np.float32)
        boxes, p, q = network(image.pixels[None], fusion)
        return answer_of_network((boxes[0], p[0], q[0]), reference.cuts, image, manifest)

    return Stage(PYTORCH, str(torch.__version__), lambda: nullcontext(ask))


def onnx_stage(bundle: Bundle, before: str | None) -> Stage:
    """The bundle's ONNX file in ONNX Runtime on the CPU."""
    import onnxruntime

    return Stage(
        f"onnxruntime/{bundle.manifest.precision}",
        str(onnxruntime.__version__),
        lambda: nullcontext(_asked(open_graph(bundle.model_path), bundle.manifest)),
        before,
    )


def engine_stage(bundle: Bundle, folder: Path, before: str) -> Stage:
    """A built engine.

    Raises:
        EngineError: it is not whole, or was built from another ONNX file.
    """
    record = read_engine(bundle, folder).record
    return Stage(
        f"{record.runtime}/{record.precision}",
        record.runtime_version,
        lambda: nullcontext(_asked(open_engine(bundle, folder, as_served=True), bundle.manifest)),
        before,
        exact=record.precision == "fp32",
    )


def answers(stage: Stage, images: Iterator[Placed]) -> list[Answer]:
    """Of every image, one at a time.

    Raises:
        EngineError: the place cannot be used here.
        ExportError: it does not answer.
    """
    with stage.opened() as ask:
        return [ask(image) for image in images]


def _asked(graph: Graph, manifest: Manifest) -> Ask:
    return lambda image: answer_of_graph(
        graph(graph_feeds(image.pixels[None], [own_setting(manifest)])), image, manifest
    )

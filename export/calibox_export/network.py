"""A torch module with the signature of CandidateGraph as an ONNX graph."""

import warnings
from collections.abc import Iterable, Sequence

import onnx
import torch
from torch import nn

from calibox_core.manifest import OPSET
from calibox_export.errors import ExportError
from calibox_export.graph import BATCH, NETWORK_INPUTS, NETWORK_OUTPUTS

# A batch of one would be taken for a constant; two is the smallest that stays a variable.
_TRACED_BATCH = 2


def network_graph(
    network: nn.Module, *, height: int, width: int, outputs: Sequence[str] = NETWORK_OUTPUTS
) -> onnx.ModelProto:
    """Traces ``network`` with a dynamic batch, weights inside.

    Args:
        network: in eval mode; takes images uint8 ``[B, H, W, 3]`` and fusion float32 ``[B, 3]`` and gives boxes float32
            ``[B, A, 4]``, p ``[B, A, C]`` and q ``[B, A, 1]`` or ``[B, A, C]``, or other ``outputs``.
        height: H.
        width: W.
        outputs: names of what it gives.

    Raises:
        ExportError: the module is in training mode, or torch cannot express it as a graph.
    """
    if network.training:
        raise ExportError(
            "the network is in training mode: call eval() first, or batch norm is exported as in training"
        )
    images = torch.zeros(_TRACED_BATCH, height, width, 3, dtype=torch.uint8)
    fusion = torch.ones(_TRACED_BATCH, 3)
    batch = torch.export.Dim(BATCH)
    try:
        with warnings.catch_warnings():
            # torch 2.11 exports by what it calls deprecated itself.
            warnings.filterwarnings("ignore", r".*LeafSpec.*", FutureWarning)
            program = torch.onnx.export(
                network,
                (images, fusion),
                dynamo=True,
                opset_version=OPSET,
                input_names=NETWORK_INPUTS,
                output_names=outputs,
                dynamic_shapes=({0: batch}, {0: torch.export.Dim.DYNAMIC}),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ExportError(f"torch cannot write the network as an ONNX graph: {error}") from error
    assert program is not None  # the type allows it for the exporter before dynamo only
    model = program.model_proto
    _forget_source(model.graph.node)
    _forget_source(model.graph.value_info)
    return model


def _forget_source(parts: Iterable[onnx.NodeProto | onnx.ValueInfoProto]) -> None:
    """Drops the stack traces that torch attaches: they name paths of the machine that exports."""
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""

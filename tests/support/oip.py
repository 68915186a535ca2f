"""Images as the Open Inference Protocol sends them, and tritonclient's two clients behind one face."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray

from calibox_core.letterbox import letterbox_into
from tests.support.gated_engine import PATIENCE_S

OUTPUTS = ("num_detections", "boxes", "labels", "classification_scores", "localization_scores", "scores")
_DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}


def letterboxed(*pictures: Any, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Pictures as the server itself would lay them into a batch, ``[B, height, width, 3]``."""
    slots = np.empty((len(pictures), height, width, 3), np.uint8)
    for slot, picture in zip(slots, pictures, strict=True):
        letterbox_into(slot, np.asarray(picture.convert("RGB")), pad_value=114)
    return slots


class Triton:
    """One of tritonclient's clients, unmodified.

    Args:
        module: ``tritonclient.http`` or ``tritonclient.grpc``.
        address: host and port.
        options: of its client.
    """

    def __init__(self, module: Any, address: str, **options: Any) -> None:
        self.module = module
        self.client = module.InferenceServerClient(address, **options)

    def inputs(self, arrays: Mapping[str, NDArray[Any]], **options: Any) -> list[Any]:
        """Arrays by name as the client's inputs; options such as ``binary_data``."""
        found = []
        for name, array in arrays.items():
            tensor = self.module.InferInput(name, array.shape, _DATATYPES[array.dtype.name])
            tensor.set_data_from_numpy(array, **options)
            found.append(tensor)
        return found

    def outputs(self, names: Sequence[str], **options: Any) -> list[Any]:
        """Outputs to ask for."""
        return [self.module.InferRequestedOutput(name, **options) for name in names]

    def infer(self, **arrays: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Every output of the model `tiny`, by name."""
        answer = self.client.infer("tiny", self.inputs(arrays))
        return {name: answer.as_numpy(name) for name in OUTPUTS}


@contextmanager
def triton_http(address: str) -> Iterator[Triton]:
    """tritonclient over HTTP."""
    wrapped = Triton(tritonclient.http, address, connection_timeout=PATIENCE_S, network_timeout=PATIENCE_S)
    try:
        yield wrapped
    finally:
        wrapped.client.close()


@contextmanager
def triton_grpc(address: str) -> Iterator[Triton]:
    """tritonclient over gRPC."""
    wrapped = Triton(tritonclient.grpc, address)
    try:
        yield wrapped
    finally:
        wrapped.client.close()


def same(left: Mapping[str, NDArray[Any]], right: Mapping[str, NDArray[Any]]) -> bool:
    """Whether two answers are equal to the last bit."""
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)

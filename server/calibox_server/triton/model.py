"""The class that Triton's Python back end looks for, around `answering`.

Images are decoded in threads; each goes to the graph's own model as a request of its own, so that Triton batches those
of all requests, and an image's answer does not depend on what it was sent with.
"""

import asyncio
import importlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.bundle import read_manifest, sha256_of
from calibox_core.errors import BundleError
from calibox_server.background import in_pool, together
from calibox_server.decoding import prepare_decoders
from calibox_server.detections import ImageDetections
from calibox_server.engine import EngineInput, EngineOutput
from calibox_server.errors import ServiceError
from calibox_server.options import available_cores
from calibox_server.parameters import Given
from calibox_server.settings import Settings
from calibox_server.triton.answering import (
    Placed,
    answer_of,
    documents_of,
    feeds_of,
    given_of,
    place,
    tensors_of,
)

IMAGE, ANSWER = "image", "answer"


class GraphError(ServiceError):
    """The graph's own model refused or failed.

    Args:
        error: Triton's.
    """

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.triton_code = error.code()


class TritonPythonModel:
    """Answers requests of images; see `calibox_export.triton.config` for its inputs and outputs."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the manifest that lies beside the model's file.

        Raises:
            BundleError: it cannot be read, or the graph beside this model is not the bundle's.
        """
        self._triton = importlib.import_module("triton_python_backend_utils")  # exists inside Triton alone
        config = json.loads(args["model_config"])
        self._about = {key: value["string_value"] for key, value in config["parameters"].items()}
        self._settings = [tensor["name"] for tensor in config["input"] if tensor["name"] != IMAGE]
        home = Path(args["model_repository"])
        self._manifest = read_manifest(home / args["model_version"])
        check_graph(home.parent, self._about)
        self._max_pixels = int(self._about.get("max_pixels", Settings.model_fields["max_pixels"].default))
        self._decoders = ThreadPoolExecutor(min(int(config["max_batch_size"]), available_cores()))
        prepare_decoders()

    async def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response per request; an error of one is nothing to the others."""
        return await asyncio.gather(*map(self._respond, requests))

    def finalize(self) -> None:
        """Ends the threads."""
        self._decoders.shutdown()

    async def _respond(self, request: Any) -> Any:
        triton = self._triton
        try:
            found = await self._detect(request)
            return triton.InferenceResponse(output_tensors=self._outputs(request, found))
        except GraphError as error:
            failure = triton.TritonError(str(error), error.triton_code)
        except ServiceError as error:
            failure = triton.TritonError(str(error), triton.TritonError.INVALID_ARG)
        except Exception as error:
            triton.Logger.log_error(f"{self._manifest.name}: {type(error).__name__}: {error}")
            failure = triton.TritonError("the model failed on this request; the server's log has the reason")
        return triton.InferenceResponse(output_tensors=[], error=failure)

    async def _detect(self, request: Any) -> list[ImageDetections]:
        images = self._array(request, IMAGE)
        assert images is not None  # Triton refuses requests without it
        given = {name: array for name in self._settings if (array := self._array(request, name)) is not None}
        labels = ["the image"] if images.size == 1 else [f"image {number}" for number in range(1, images.size + 1)]
        parts = [
            (data, label, given_of(given, image))
            for image, (data, label) in enumerate(zip(images.reshape(-1), labels, strict=True))
        ]
        placed = await in_pool(self._decoders, self._place, parts)  # all, before the graph sees the first
        return await together([self._ask_graph(one, request) for one in placed])

    def _array(self, request: Any, name: str) -> NDArray[Any] | None:
        tensor = self._triton.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()

    def _place(self, part: tuple[bytes, str, Given]) -> Placed:
        return place(*part, self._manifest, max_pixels=self._max_pixels)

    async def _ask_graph(self, placed: Placed, request: Any) -> ImageDetections:
        triton, feeds = self._triton, feeds_of(placed)
        inputs = [triton.Tensor(field.name, _with_column(getattr(feeds, field.name))) for field in fields(EngineInput)]
        asked = triton.InferenceRequest(
            model_name=self._about["graph"],
            model_version=int(self._about["graph_version"]),
            requested_output_names=list(EngineOutput._fields),
            inputs=inputs,
            request_id=request.request_id(),
            timeout=request.timeout(),
            # The graph may run on a GPU; what is done with its rows is done here.
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = await asked.async_exec()
        if response.has_error():
            raise GraphError(response.error())
        tensors = (triton.get_output_tensor_by_name(response, name).as_numpy() for name in EngineOutput._fields)
        count, *rows = map(np.array, tensors)  # copies: the memory is the response's
        return answer_of(EngineOutput(count.reshape(-1), *rows), placed, self._manifest)

    def _outputs(self, request: Any, found: Sequence[ImageDetections]) -> list[Any]:
        """Those that were asked for; neither JSON nor tensors are made for nobody."""
        asked = request.requested_output_names()
        arrays: dict[str, NDArray[Any]] = {ANSWER: documents_of(found, self._manifest)} if ANSWER in asked else {}
        if any(name != ANSWER for name in asked):
            arrays |= tensors_of(found, self._manifest)
        return [self._triton.Tensor(name, arrays[name]) for name in asked]


def check_graph(repository: Path, about: Mapping[str, str]) -> None:
    """Whether the graph's model runs the file that this one was exported with, where both lie on this disk.

    Raises:
        BundleError: another file lies there.
    """
    path = repository / about["graph"] / about["graph_version"] / about["graph_file"]
    if not path.is_file():
        return  # Triton fetched this model alone, from a store elsewhere
    if sha256_of(path) != about["graph_sha256"]:
        raise BundleError(f"{path} is not the graph of this model (sha256 differs); export the repository again")


def _with_column(array: NDArray[Any]) -> NDArray[Any]:
    """``[B]`` as ``[B, 1]``, the form that Triton gives what has no dimension but the batch."""
    return array[:, None] if array.ndim == 1 else array

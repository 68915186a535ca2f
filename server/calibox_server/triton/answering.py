"""From an encoded image to the graph's inputs, and from the graph's rows to an answer, as the server itself does both.

Knows nothing of Triton. Letters: B images, N rows of the outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.letterbox import Letterbox
from calibox_core.manifest import Manifest
from calibox_server.decoding import decode_into
from calibox_server.detections import ImageDetections, finish
from calibox_server.detections_json import DetectionsWriter
from calibox_server.engine import EngineInput, EngineOutput
from calibox_server.engine_runner import Work, clock, stack, unpadded
from calibox_server.errors import ParameterError
from calibox_server.options import MAX_TIMEOUT_MS
from calibox_server.parameters import Given, Parameters, read_parameters
from calibox_server.requests import ImagePart


@dataclass(frozen=True, slots=True)
class Placed:
    """An image that lies ready for the graph."""

    work: Work
    letterbox: Letterbox
    parameters: Parameters


def given_of(tensors: Mapping[str, NDArray[Any]], image: int) -> Given:
    """The settings of one image of a request, as `read_parameters` takes them.

    Args:
        tensors: name to ``[B, 1]``, of numbers or of bytes.
        image: which row.

    Raises:
        ParameterError: bytes that are no text.
    """
    return {name: [_plain(name, array.reshape(-1)[image])] for name, array in tensors.items()}


def place(data: bytes, label: str, given: Given, manifest: Manifest, *, max_pixels: int) -> Placed:
    """Decodes and letterboxes an image, and reads its settings.

    Args:
        data: an encoded image.
        label: how a sentence calls it.
        given: its settings.
        manifest: of the model.
        max_pixels: most, told from the header.

    Raises:
        ServiceError: a setting or the image is not accepted, as in `POST /v1/detect`.
    """
    # Triton keeps the time, so the timeout is not used; any will do.
    parameters = read_parameters(given, manifest, default_timeout_ms=MAX_TIMEOUT_MS)
    slot = np.empty((manifest.input.height, manifest.input.width, 3), np.uint8)
    part = ImagePart(data, label)
    letterbox = decode_into(slot, part, max_pixels=max_pixels, pad_value=manifest.input.pad_value)
    return Placed(Work(slot, parameters, parameters.refine_steps[0], clock()), letterbox, parameters)


def feeds_of(placed: Placed) -> EngineInput:
    """The graph's inputs, a batch of this one image."""
    return stack([placed.work])


def answer_of(out: EngineOutput, placed: Placed, manifest: Manifest) -> ImageDetections:
    """Detections of the image, from a batch of it alone."""
    return finish(unpadded(out, 0), placed.letterbox, placed.parameters, manifest)


def tensors_of(found: Sequence[ImageDetections], manifest: Manifest) -> dict[str, NDArray[Any]]:
    """Detections as tensors: boxes in pixels of each upright image, reported scores; padded as the graph pads."""
    rows = manifest.nms.max_detections
    counts = np.array([[len(one.labels)] for one in found], np.int32)
    padded: dict[str, NDArray[Any]] = {
        "boxes": np.zeros((len(found), rows, 4), np.float32),
        "labels": np.full((len(found), rows), -1, np.int32),
    }
    for name in ("scores", "classification_scores", "localization_scores"):
        padded[name] = np.zeros((len(found), rows), np.float32)
    for name, array in padded.items():
        for image, one in enumerate(found):
            array[image, : counts[image, 0]] = getattr(one, name)
    sizes = np.array([(one.width, one.height) for one in found], np.int32).reshape(-1, 2)
    return {"image_size": sizes, "num_detections": counts, **padded}


def documents_of(found: Sequence[ImageDetections], manifest: Manifest) -> NDArray[np.object_]:
    """An answer of `POST /v1/detect` for each image alone, ``[B, 1]`` of bytes; Triton has the times."""
    writer = DetectionsWriter(manifest)
    return np.array([[writer.write([one], {})] for one in found], np.object_)


def _plain(name: str, value: Any) -> object:
    if not isinstance(value, bytes):
        return value.item()
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ParameterError(f"{name} must be text in UTF-8, got {value[:40]!r}") from error

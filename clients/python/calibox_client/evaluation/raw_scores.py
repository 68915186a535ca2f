"""The server's raw score pairs: what its model had before suppression, over the Open Inference Protocol.

The pictures are decoded and letterboxed here by the very functions that the server uses, since the protocol takes the
graph's own input. Letters: H x W the model's input, K candidates.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from calibox_client.async_client import AsyncClient
from calibox_client.errors import BadReplyError
from calibox_client.evaluation.errors import EvaluationError
from calibox_client.replies import Reply, read_json
from calibox_client.requests import LONGEST_TIMEOUT_MS, HttpRequest
from calibox_core.images import decode_image
from calibox_core.letterbox import letterbox_into
from calibox_core.manifest import Manifest
from calibox_core.ranking import Exponents
from calibox_core.reranking import RawCandidates

_LENGTH_HEADER = "Inference-Header-Content-Length"
_DTYPES = {"INT32": np.dtype("<i4"), "FP32": np.dtype("<f4")}
_OUTPUTS = ("labels", "boxes", "classification_scores", "localization_scores")
_BUSY = (429, 503, 504)  # are repeated; `read_json` makes their errors


@dataclass(frozen=True, slots=True)
class RawImage:
    """What the model had of one image, and the image's size."""

    image_id: int
    width: int  # of the upright image, in pixels
    height: int
    candidates: RawCandidates

    def as_line(self) -> dict[str, Any]:
        """Numbers as base64 of their little-endian bytes: exact, and a third of the length of digits."""
        arrays = self.candidates._asdict()
        packed = {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()}
        return {"image_id": self.image_id, "width": self.width, "height": self.height, **packed}

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> Self:
        """The same from its line."""
        boxes, p, q = (
            np.frombuffer(base64.b64decode(line[name]), "<f4").astype(np.float32) for name in ("boxes_K4", "p_K", "q_K")
        )
        labels = np.frombuffer(base64.b64decode(line["labels_K"]), "<i4").astype(np.int32)
        candidates = RawCandidates(boxes.reshape(-1, 4), labels, p, q)
        return cls(line["image_id"], line["width"], line["height"], candidates)


class RawScoresClient(AsyncClient):
    """A client that can also ask for what was there before suppression."""

    async def raw_scores(
        self, image_id: int, path: Path, manifest: Manifest, rankings: Sequence[Exponents]
    ) -> RawImage:
        """Candidates of one image: all that the model keeps under any of the rankings.

        Raises:
            CaliboxClientError: as `detect`.
            EvaluationError: this server does not tell.
            ImageError, OSError: the picture cannot be read.
        """
        slot, width, height = await asyncio.to_thread(_letterboxed, path, manifest)
        deadline = self._deadline(None)
        found = [await self._call(raw_request(manifest, slot, exponents), read_raw, deadline) for exponents in rankings]
        return RawImage(image_id, width, height, united(found))


def united(parts: Sequence[RawCandidates]) -> RawCandidates:
    """Candidates that are in any of the parts, each once, in the order of its first place."""
    boxes, labels, p, q = (np.concatenate(column) for column in zip(*parts, strict=True))
    rows = np.column_stack([boxes, p, q, labels])  # labels are small: exact in float32
    _, first = np.unique(rows, axis=0, return_index=True)
    order = np.sort(first)
    return RawCandidates(boxes[order], labels[order], p[order], q[order])


def _letterboxed(path: Path, manifest: Manifest) -> tuple[NDArray[np.uint8], int, int]:
    size = manifest.input
    slot = np.empty((size.height, size.width, 3), np.uint8)
    placed = letterbox_into(slot, decode_image(path.read_bytes()), pad_value=size.pad_value)
    return slot, placed.width, placed.height


def raw_request(manifest: Manifest, image: NDArray[np.uint8], exponents: Exponents) -> HttpRequest:
    """Asks about one letterboxed image, uint8 ``[H, W, 3]``, with tensors as bytes both ways."""
    document = {
        "parameters": {"timeout": LONGEST_TIMEOUT_MS * 1000},  # microseconds; the call's own end comes first
        "inputs": [
            {
                "name": "images",
                "datatype": "UINT8",
                "shape": [1, *image.shape],
                "parameters": {"binary_data_size": image.nbytes},
            },
            {"name": "fusion", "datatype": "FP32", "shape": [1, 3], "data": list(exponents)},
        ],
        "outputs": [{"name": f"candidate_{name}", "parameters": {"binary_data": True}} for name in _OUTPUTS],
    }
    head = json.dumps(document).encode()
    return HttpRequest(
        "POST",
        f"/v2/models/{quote(manifest.name, safe='')}/versions/{quote(manifest.version, safe='')}/infer",
        headers={"Content-Type": "application/octet-stream", _LENGTH_HEADER: str(len(head))},
        content=head + image.tobytes(),
    )


def read_raw(reply: Reply) -> RawCandidates:
    """Candidates of the one image, without padding.

    Raises:
        EvaluationError: the server refuses; the sentence is its own.
        BadReplyError: not such an answer.
        ApiError: busy or stopping.
    """
    try:
        if 400 <= reply.status < 600 and reply.status not in _BUSY:
            raise EvaluationError(f"the server does not give raw scores: {json.loads(reply.content)['error']}")
        if reply.status >= 300:
            read_json(reply)
        length = int(reply.headers[_LENGTH_HEADER])
        arrays = _arrays(json.loads(reply.content[:length])["outputs"], memoryview(reply.content)[length:])
        labels, boxes, p, q = (arrays[f"candidate_{name}"][0] for name in _OUTPUTS)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadReplyError(
            f"the answer is not that of POST /v2/.../infer ({type(error).__name__}: {error})"
        ) from error
    count = int((labels >= 0).sum())  # padding comes last
    return RawCandidates(boxes[:count], labels[:count], p[:count], q[:count])


def _arrays(outputs: Sequence[Mapping[str, Any]], data: memoryview) -> dict[str, NDArray[Any]]:
    """Tensors by name, one after the other in the bytes."""
    arrays, start = {}, 0
    for output in outputs:
        end = start + int(output["parameters"]["binary_data_size"])
        flat = np.frombuffer(data[start:end], _DTYPES[output["datatype"]])
        arrays[str(output["name"])] = flat.reshape(output["shape"])
        start = end
    return arrays

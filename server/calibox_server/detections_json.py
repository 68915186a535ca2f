"""Detections as the JSON of an answer. Floats are written with the digits that a float32 has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from calibox_core.manifest import Manifest
from calibox_server.detections import ImageDetections


class DetectionsWriter:
    """Writes answers of one model.

    Each column of an image is written at once and cut between its values: a document of rows, made for the encoder to
    walk, costs twice as much.

    Args:
        manifest: of the model.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.title = manifest.title
        self._model = {"model": manifest.name, "version": manifest.version}
        # The members that tell a class, by label.
        self._classes = [_text({"label": c.name, "label_id": c.category_id})[1:-1] for c in manifest.classes]

    def write(self, found: Sequence[ImageDetections], timing_ms: Mapping[str, float]) -> bytes:
        """The answer of `POST /v1/detect`.

        Args:
            found: of every image, in order.
            timing_ms: milliseconds by stage.
        """
        results = [
            {"width": one.width, "height": one.height, "detections": orjson.Fragment(self._detections(one))}
            for one in found
        ]
        return orjson.dumps({**self._model, "results": results, "timing": timing_ms})

    def _detections(self, image: ImageDetections) -> str:
        if not len(image.labels):
            return "[]"
        classes = self._classes
        rows = zip(
            _text(image.boxes)[2:-2].split("],["),
            image.labels.tolist(),
            _values(image.scores),
            _values(image.classification_scores),
            _values(image.localization_scores),
            strict=True,
        )
        texts = [
            f'{{"box":[{box}],{classes[label]},"score":{score},"classification_score":{p},"localization_score":{q}}}'
            for box, label, score, p, q in rows
        ]
        return f"[{','.join(texts)}]"


def _values(column: NDArray[np.float32]) -> list[str]:
    return _text(column)[1:-1].split(",")


def _text(value: Any) -> str:
    # Arrays that do not lie in one piece are copied: the encoder takes no others.
    return orjson.dumps(value, default=np.ascontiguousarray, option=orjson.OPT_SERIALIZE_NUMPY).decode()

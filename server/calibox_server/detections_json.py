"""Detections as the JSON of an answer. Floats are written with the digits that a float32 has."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from calibox_core.manifest import Manifest
from calibox_server.detections import ImageDetections


class DetectionsWriter:
    """Writes answers of one model.

    The columns of an image are written at once and cut between their values: a document of rows, made for the encoder
    to walk, costs twice as much.

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
        boxes, _, scores = _text(
            [image.boxes, image.scores, image.classification_scores, image.localization_scores]
        ).partition("]],[")  # [[[x1,y1,x2,y2],[...]],[score,...],[p,...],[q,...]]
        columns = [column.split(",") for column in scores[:-2].split("],[")]
        texts = [
            f'{{"box":[{box}],{classes[label]},"score":{score},"classification_score":{p},"localization_score":{q}}}'
            for box, label, score, p, q in zip(boxes[3:].split("],["), image.labels.tolist(), *columns, strict=True)
        ]
        return f"[{','.join(texts)}]"


def _text(value: Any) -> str:
    # Arrays that do not lie in one piece are copied: the encoder takes no others.
    return orjson.dumps(value, default=np.ascontiguousarray, option=orjson.OPT_SERIALIZE_NUMPY).decode()

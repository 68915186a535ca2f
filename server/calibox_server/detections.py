"""From the engine's rows to what a request wants to know. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.letterbox import Letterbox
from calibox_core.manifest import Manifest
from calibox_server.engine import EngineOutput
from calibox_server.engine_runner import RawDetections
from calibox_server.parameters import Parameters
from calibox_server.tiles import Seen, View


class ImageDetections(NamedTuple):
    """Detections of one image, best ranking first. Letters: n detections."""

    width: int  # of the upright image, in pixels
    height: int
    boxes: NDArray[np.float32]  # [n, 4] x1, y1, x2, y2 in pixels of the upright image
    labels: NDArray[np.int32]  # [n] 0-based class index
    classification_scores: NDArray[np.float32]  # [n]
    localization_scores: NDArray[np.float32]  # [n]
    scores: NDArray[np.float32]  # [n] reported, after the score map


class StageTimes(NamedTuple):
    """How long a request's slowest image spent in each stage, in seconds."""

    decode: float  # including the wait for a decode thread
    queue: float
    engine: float
    batch: int = 1  # the most images that ran together with one of the request's


def times_of(decode: float, raw: Sequence[RawDetections]) -> StageTimes:
    """The times of a request whose images were decoded in ``decode`` seconds."""
    if len(raw) == 1:
        return StageTimes(decode, raw[0].queue, raw[0].engine, raw[0].batch)
    return StageTimes(decode, max(r.queue for r in raw), max(r.engine for r in raw), max(r.batch for r in raw))


def answer_of(seen: Seen, whole: View, parameters: Parameters, manifest: Manifest) -> ImageDetections:
    """What was merged from an image's tiles, as the request wants it."""
    kept = _wanted(seen.labels, seen.scores, parameters)
    return ImageDetections(
        width=whole.right,
        height=whole.bottom,
        boxes=seen.boxes[kept],
        labels=seen.labels[kept],
        classification_scores=seen.classification_scores[kept],
        localization_scores=seen.localization_scores[kept],
        scores=manifest.score_map.apply(seen.scores[kept]),
    )


def finish(rows: EngineOutput, letterbox: Letterbox, parameters: Parameters, manifest: Manifest) -> ImageDetections:
    """The graph's rows of one image as the request wants them: pixels of its image, mapped scores, its classes."""
    kept = _wanted(rows.labels, rows.scores, parameters)
    return ImageDetections(
        width=letterbox.width,
        height=letterbox.height,
        boxes=letterbox.to_image(rows.boxes[kept]),
        labels=rows.labels[kept],
        classification_scores=rows.classification_scores[kept],
        localization_scores=rows.localization_scores[kept],
        scores=manifest.score_map.apply(rows.scores[kept]),
    )


def _wanted(labels: NDArray[np.int32], scores: NDArray[np.float32], parameters: Parameters) -> slice | NDArray[np.intp]:
    """Rows of the classes that were asked for and at least at their thresholds, the best of them."""
    if parameters.classes is None and parameters.class_thresholds is None:
        return slice(parameters.max_detections)
    kept = reaching(labels, scores, parameters)
    if parameters.classes is not None:
        kept &= np.isin(labels, list(parameters.classes))
    return np.flatnonzero(kept)[: parameters.max_detections]


def reaching(labels: NDArray[np.int32], scores: NDArray[np.float32], parameters: Parameters) -> NDArray[np.bool_]:
    """Which rows ``[n]`` are at least at the threshold of their class, compared in float32 as the graph compares."""
    if parameters.class_thresholds is None:
        return np.ones(len(labels), np.bool_)
    return np.asarray(scores >= np.array(parameters.class_thresholds, np.float32)[labels])

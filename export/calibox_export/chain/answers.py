"""What a place of the chain answers about one image, in a form that every place has.

Boxes are compared in pixels of the input, clipped to where the image lies, because an answer over HTTP is; reported
scores are compared as the manifest's score map makes them.

Letters: N detections of an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import xyxy_to_xywh
from calibox_core.coco_matching import FoundObjects
from calibox_core.letterbox import Letterbox
from calibox_core.manifest import Manifest
from calibox_core.score_map import ScoreMap
from calibox_export.engines.accuracy import Placed, own_setting
from calibox_export.level_cut import LevelCut
from calibox_export.parity import Arrays, Raw, as_anchors, candidate_rows, detected_rows, reference_answer
from calibox_export.sameness import TWO_FRAMEWORKS, Rows, Sure, take_candidates


@dataclass(frozen=True, slots=True)
class Certain:
    """What the next place must and may hold, and what this one's candidates give by the reference."""

    sure: Sure
    expected_N: NDArray[np.int64]  # anchor * C + class


@dataclass(frozen=True, slots=True)
class Answer:
    """Detections of one image."""

    rows: Rows  # boxes in pixels of the input, clipped to the image
    scores_N: NDArray[np.float32]  # as reported
    image_boxes_N4: NDArray[np.float64]  # x1, y1, x2, y2 in pixels of the image
    certain: Certain | None  # None where candidates are not at hand, as over HTTP

    @property
    def found(self) -> FoundObjects:
        """The same for COCO's measures: best reported score first."""
        order = np.argsort(-self.scores_N, kind="stable")
        return FoundObjects(
            xyxy_to_xywh(self.image_boxes_N4[order]).astype(np.float64),
            self.rows.labels[order].astype(np.int64),
            self.scores_N[order].astype(np.float64),
        )


def answer_of_network(raw: Raw, cuts: Sequence[LevelCut], image: Placed, manifest: Manifest) -> Answer:
    """Of the reference on raw scores of a network, all its anchors included."""
    sure, kept = reference_answer(raw, own_setting(manifest), manifest.nms, TWO_FRAMEWORKS, cuts)
    rows = Rows(kept.boxes, kept.labels, kept.classification_scores, kept.localization_scores)
    return _answer(rows, kept.scores, Certain(sure, kept.anchor_class), image, manifest)


def answer_of_graph(outputs: Arrays, image: Placed, manifest: Manifest) -> Answer:
    """Of a graph's outputs for a batch of one."""
    raw = as_anchors(candidate_rows(outputs, 0), len(manifest.classes))
    sure, kept = reference_answer(raw, own_setting(manifest), manifest.nms, TWO_FRAMEWORKS)
    rows = detected_rows(outputs, 0)
    scores = outputs["scores"][0, : len(rows.labels)]
    return _answer(rows, scores, Certain(sure, kept.anchor_class), image, manifest)


def answer_of_document(result: Mapping[str, Any], letterbox: Letterbox, manifest: Manifest) -> Answer:
    """Of one image's result in an answer over HTTP.

    Raises:
        KeyError: it lacks something, or names another class than the manifest's.
    """
    labels = {entry.category_id: label for label, entry in enumerate(manifest.classes)}
    found = result["detections"]
    boxes = np.array([row["box"] for row in found], np.float64).reshape(-1, 4)
    scores = np.array([row["score"] for row in found], np.float32)
    rows = Rows(
        boxes=letterbox.to_input(boxes).astype(np.float32),
        labels=np.array([labels[row["label_id"]] for row in found], np.int32),
        classification_scores=np.array([row["classification_score"] for row in found], np.float32),
        localization_scores=np.array([row["localization_score"] for row in found], np.float32),
        scores=scores,
    )
    return Answer(rows, scores, boxes, None)


def _answer(rows: Rows, scores_N: NDArray[Any], certain: Certain, image: Placed, manifest: Manifest) -> Answer:
    """As an answer over HTTP would show them; ``scores_N`` are those of the graph."""
    boxes = image.letterbox.to_image(rows.boxes)
    scores = manifest.score_map.apply(scores_N)
    return Answer(
        rows._replace(boxes=image.letterbox.to_input(boxes), scores=scores),
        scores,
        boxes.astype(np.float64),
        Certain(_shown(certain.sure, image.letterbox, manifest.score_map), certain.expected_N),
    )


def _shown(sure: Sure, letterbox: Letterbox, score_map: ScoreMap) -> Sure:
    """The same as an answer over HTTP would show it, without what certainly is not kept.

    A score map may be steep: what is within the tolerance before the map stays within it behind.
    """
    tolerance = np.float32(TWO_FRAMEWORKS.score)
    kept = sure.may
    pairs = take_candidates(sure.candidates, kept)
    boxes = letterbox.to_input(letterbox.to_image(pairs.boxes))
    low, high = sure.low[kept], sure.high[kept]
    return Sure(
        pairs._replace(boxes=boxes),
        must=sure.must[kept],
        may=kept[kept],
        low=np.minimum(score_map.apply(low), score_map.apply(low - tolerance) + tolerance),
        high=np.maximum(score_map.apply(high), score_map.apply(high + tolerance) - tolerance),
    )

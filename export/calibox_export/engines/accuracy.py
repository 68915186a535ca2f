"""What an engine's precision costs: the same images through it and through the ONNX file in float32.

Letters: N detections, M detections of the other side.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.boxes import pairwise_iou, xywh_to_xyxy, xyxy_to_xywh
from calibox_core.coco_metrics import Metrics, coco_metrics, load_ground_truth, score_iou_correlations
from calibox_core.dataset import DataFolder, Split
from calibox_core.errors import DatasetError, ImageError
from calibox_core.fusion import fuse
from calibox_core.images import decode_image
from calibox_core.letterbox import Letterbox, letterbox_into
from calibox_core.manifest import Manifest
from calibox_core.precision import Accuracy
from calibox_export.parity import Arrays, Graph, Setting, graph_feeds

PAIRED_IOU = 0.5  # a detection's partner overlaps it by at least this
SHOWN = ("AP", "AP50", "AP75", "AP90", "pearson_classification", "pearson_localization", "pearson_score")


class Placed(NamedTuple):
    """An image as the graph takes it."""

    record: Mapping[str, Any]
    pixels: NDArray[np.uint8]  # [H, W, 3]
    letterbox: Letterbox


@dataclass(frozen=True, slots=True)
class Found:
    """What a graph found in one image, padding cut off."""

    boxes_N4: NDArray[np.float32]  # letterboxed pixels
    labels_N: NDArray[np.int32]
    scores_N: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Measured:
    """A graph on a split."""

    metrics: Metrics
    found: list[Found]


class Drift(NamedTuple):
    """How far detections are from those of the ONNX file."""

    score: float  # mean distance of the scores of paired detections, 0..1
    score_max: float  # the largest one
    box: float  # mean of the largest shift of a coordinate in a pair, pixels of the input
    unpaired: float  # share of the detections without a partner of their class at IoU 0.5


def placed_images(folder: DataFolder, split: Split, manifest: Manifest, *, most: int | None = None) -> Iterator[Placed]:
    """Images of a split by id.

    Raises:
        DatasetError: one cannot be read.
    """
    size = manifest.input
    for record in sorted(folder.annotations(split)["images"], key=lambda image: int(image["id"]))[:most]:
        slot = np.empty((size.height, size.width, 3), np.uint8)
        path = folder.images / record["file_name"]
        try:
            letterbox = letterbox_into(slot, decode_image(path.read_bytes()), pad_value=size.pad_value)
        except (OSError, ImageError) as error:
            raise DatasetError(f"{path} cannot be read: {error}") from error
        yield Placed(record, slot, letterbox)


def own_setting(manifest: Manifest) -> Setting:
    """The model's own ranking, and every detection."""
    return Setting(manifest.fusion.exponents(), 0.0, manifest.thresholds.iou)


def measure(graph: Graph, manifest: Manifest, folder: DataFolder, split: Split) -> Measured:
    """Runs a whole split, an image at a time.

    Raises:
        DatasetError: the split has no images, or one cannot be read.
    """
    annotations = folder.annotations(split)
    truth = _objects(annotations, [c.category_id for c in manifest.classes])
    found: list[Found] = []
    results: list[dict[str, Any]] = []
    samples = [np.empty((4, 0), np.float32)]
    for image in placed_images(folder, split, manifest):
        outputs = graph(graph_feeds(image.pixels[None], [own_setting(manifest)]))
        one = found_in(outputs, 0)
        found.append(one)
        results += _results(one, image, manifest)
        samples.append(_samples(outputs, image, truth[int(image.record["id"])], manifest))
    if not found:
        raise DatasetError(f"{folder.source(split)} lists no images; name another split with --split")
    metrics, _ = coco_metrics(load_ground_truth(annotations), results)
    return Measured({**metrics, **score_iou_correlations(*np.concatenate(samples, axis=1))}, found)


def found_in(outputs: Arrays, image: int) -> Found:
    """Detections of one image of a batch."""
    rows = int(outputs["num_detections"][image])
    return Found(*(outputs[name][image, :rows] for name in ("boxes", "labels", "scores")))


def compare(reference: Measured, engine: Measured, *, dataset: str) -> Accuracy:
    """One against the other, image by image."""
    moved = drift(reference.found, engine.found)
    return Accuracy(
        dataset=dataset,
        images=len(reference.found),
        reference={name: reference.metrics.get(name) for name in SHOWN},
        engine={name: engine.metrics.get(name) for name in SHOWN},
        score_drift=moved.score,
        score_drift_max=moved.score_max,
        box_drift=moved.box,
        unpaired=moved.unpaired,
    )


def drift(reference: Sequence[Found], engine: Sequence[Found]) -> Drift:
    """Of an engine's detections, image by image."""
    pairs = [_pairs(one, other) for one, other in zip(reference, engine, strict=True)]
    score_gap, box_gap = (np.concatenate([np.empty(0, np.float32), *(pair[i] for pair in pairs)]) for i in range(2))
    rows = sum(len(one.labels_N) for one in (*reference, *engine))
    return Drift(
        score=float(score_gap.mean()) if len(score_gap) else 0.0,
        score_max=float(score_gap.max(initial=0)),
        box=float(box_gap.mean()) if len(box_gap) else 0.0,
        unpaired=1 - 2 * len(score_gap) / rows if rows else 0.0,
    )


def paired(one: Found, other: Found) -> tuple[list[int], list[int]]:
    """Rows of both sides that are greedy pairs, best IoU first."""
    iou_NM = pairwise_iou(one.boxes_N4, other.boxes_N4) * (one.labels_N[:, None] == other.labels_N[None, :])
    rows: list[int] = []
    columns: list[int] = []
    for flat in np.argsort(-iou_NM, axis=None, kind="stable"):
        n, m = divmod(int(flat), max(1, iou_NM.shape[1]))
        if iou_NM[n, m] < PAIRED_IOU:
            break
        if n not in rows and m not in columns:
            rows.append(n)
            columns.append(m)
    return rows, columns


def _pairs(one: Found, other: Found) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances of the scores and largest shifts of the boxes of pairs."""
    rows, columns = paired(one, other)
    score_gap = np.abs(one.scores_N[rows] - other.scores_N[columns])
    return score_gap, np.abs(one.boxes_N4[rows] - other.boxes_N4[columns]).max(axis=1, initial=0)


def _results(one: Found, image: Placed, manifest: Manifest) -> list[dict[str, Any]]:
    boxes = xyxy_to_xywh(image.letterbox.to_image(one.boxes_N4))
    return [
        {
            "image_id": image.record["id"],
            "category_id": manifest.classes[label].category_id,
            "bbox": box.tolist(),
            "score": float(score),
        }
        for box, label, score in zip(boxes, one.labels_N, one.scores_N, strict=True)
    ]


def _samples(outputs: Arrays, image: Placed, truth: "Objects", manifest: Manifest) -> NDArray[np.float32]:
    """P, q, fused score and true IoU ``[4, K]`` of the candidates before suppression."""
    labels = outputs["candidate_labels"][0]
    used = labels >= 0
    p, q = (outputs[f"candidate_{name}_scores"][0][used] for name in ("classification", "localization"))
    boxes = image.letterbox.to_image(outputs["candidate_boxes"][0][used])
    same = labels[used][:, None] == truth.labels[None, :]
    iou = np.where(same, pairwise_iou(boxes, truth.boxes), 0).max(axis=1, initial=0)
    return np.stack([p, q, fuse(p, q, manifest.fusion.exponents()), iou]).astype(np.float32)


class Objects(NamedTuple):
    """Objects of an image, crowd regions left out."""

    boxes: NDArray[np.float32]  # [G, 4] x1, y1, x2, y2 in pixels of the image
    labels: NDArray[np.int64]  # [G]


def _objects(annotations: Mapping[str, Any], category_ids: Sequence[int]) -> dict[int, Objects]:
    label = {category: number for number, category in enumerate(category_ids)}
    own: dict[int, list[Mapping[str, Any]]] = {int(image["id"]): [] for image in annotations["images"]}
    for annotation in annotations["annotations"]:
        if not annotation.get("iscrowd", 0):
            own[int(annotation["image_id"])].append(annotation)
    return {
        image: Objects(
            xywh_to_xyxy(np.array([a["bbox"] for a in rows], np.float32).reshape(-1, 4)),
            np.array([label[a["category_id"]] for a in rows], np.int64),
        )
        for image, rows in own.items()
    }

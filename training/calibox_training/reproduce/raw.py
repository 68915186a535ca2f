"""What a network says of every anchor of a split, kept, so that any ranking can be redone later on the same outputs.

Letters: I images, A anchors of all levels, C classes, K kept anchors of all images.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibox_core.dataset import DataFolder
from calibox_core.errors import CaliboxError
from calibox_core.letterbox import Letterbox, letterbox_into
from calibox_core.manifest import InputSpec
from calibox_core.nms import calibrated_nms
from calibox_training.checkpoint import TrainedModel
from calibox_training.data.coco import ImageRecord, read_image, read_records
from calibox_training.evaluation import NO_THRESHOLD
from calibox_training.inference import CandidateGraph
from calibox_training.recipe import Recipe

EVERY_ANCHOR = 1 << 30  # as a level's top-k
TIMED_IMAGES = 50  # enough for a median; the first ones warm up
WARM_UP = 5


class RawError(CaliboxError):
    """Stored outputs do not belong to this data set, or cannot be read."""


@dataclass(frozen=True, slots=True)
class RawImage:
    """One image. Anchors whose best p is not above the candidate floor can take a place in a level's top-k, so their
    p and q are kept, but they never become candidates: their boxes are not.
    """

    record: ImageRecord
    best_p_A: NDArray[np.float32]
    q_A: NDArray[np.float32]
    index_K: NDArray[np.int32]  # anchors that are kept whole
    p_KC: NDArray[np.float32]
    boxes_K4: NDArray[np.float32]  # letterboxed pixels
    letterbox: Letterbox


@dataclass(frozen=True, slots=True)
class RawSplit:
    """All images in the order of their ids, and the number of anchors of each level."""

    counts: tuple[int, ...]
    images: list[RawImage]
    recipe: Recipe


@torch.no_grad()
def evaluate_raw(model: TrainedModel, folder: DataFolder, path: Path, *, accelerator: str) -> float:
    """Runs the validation split once and writes float32 outputs to ``path`` (npz, uncompressed).

    Returns: milliseconds of network and post-processing per image, median over the first images after a warm-up, of
        processor time on CPUs; the post-processing is the reference in numpy.
    """
    device = torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    recipe, size = model.recipe, model.recipe.input
    detector = model.detector.to(device)
    graph = CandidateGraph(detector, height=size.height, width=size.width, per_level_top_k=EVERY_ANCHOR).to(device)
    served = CandidateGraph(detector, height=size.height, width=size.width, per_level_top_k=recipe.per_level_top_k).to(
        device
    )
    key = torch.tensor([recipe.fusion.exponents()], dtype=torch.float32, device=device)
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in ("best_p", "q", "index", "p", "boxes")}
    seconds: list[float] = []
    for number, record in enumerate(read_records(folder.annotations("val"), model.classes)):
        slot = np.empty((size.height, size.width, 3), np.uint8)
        letterbox_into(slot, read_image(folder, record))
        image = torch.from_numpy(slot).to(device)[None]
        if number < TIMED_IMAGES:
            seconds.append(_timed(served, image, key, recipe))
        boxes, p, q = (tensor[0].float().cpu().numpy() for tensor in graph(image, key))
        best = p.max(axis=1, initial=0)
        kept = np.flatnonzero(best > np.float32(recipe.nms.candidate_floor))
        for name, values in zip(rows, (best, q[:, 0], kept.astype(np.int32), p[kept], boxes[kept]), strict=True):
            rows[name].append(values)
    _save(path, rows, counts=graph.counts)
    return float(np.median(seconds[WARM_UP:] or seconds) * 1000)


def _timed(graph: CandidateGraph, image: torch.Tensor, key: torch.Tensor, recipe: Recipe) -> float:
    clock = time.process_time if image.device.type == "cpu" else time.perf_counter
    start = clock()
    boxes, p, q = (tensor[0].float().cpu().numpy() for tensor in graph(image, key))
    calibrated_nms(
        boxes,
        p,
        q,
        exponents=recipe.fusion.exponents(),
        score_threshold=NO_THRESHOLD,
        iou_threshold=recipe.thresholds.iou,
        attributes=recipe.nms,
    )
    return clock() - start


def _save(path: Path, rows: dict[str, list[NDArray[Any]]], *, counts: list[int]) -> None:
    scratch = path.with_name(f"{path.name}.part")
    kept = np.array([len(index) for index in rows["index"]], np.int64)
    with scratch.open("wb") as stream:
        np.savez(
            stream,
            counts=np.array(counts, np.int64),
            kept=kept,
            best_p=np.stack(rows["best_p"]),
            q=np.stack(rows["q"]),
            index=np.concatenate(rows["index"]),
            p=np.concatenate(rows["p"]),
            boxes=np.concatenate(rows["boxes"]),
        )
    scratch.replace(path)


def read_raw(path: Path, recipe: Recipe, records: Sequence[ImageRecord]) -> RawSplit:
    """What `evaluate_raw` wrote, image by image.

    Args:
        path: of the npz.
        recipe: of the model.
        records: of the validation split, in the order of their ids.

    Raises:
        RawError: the file cannot be read, or holds another number of images.
    """
    try:
        with np.load(path) as stored:
            found = {name: stored[name] for name in ("counts", "kept", "best_p", "q", "index", "p", "boxes")}
    except (OSError, ValueError, KeyError) as error:
        raise RawError(
            f"{path} cannot be read: {error}; delete the cell's trained.json to evaluate it again"
        ) from error
    if len(found["kept"]) != len(records):
        raise RawError(f"{path} holds {len(found['kept'])} images, the validation split {len(records)}")
    ends = np.cumsum(found["kept"])[:-1]
    whole = zip(*(np.split(found[name], ends) for name in ("index", "p", "boxes")), strict=True)
    images = [
        RawImage(record, best_p, q, index, p, boxes, _letterbox(record, recipe.input))
        for record, best_p, q, (index, p, boxes) in zip(records, found["best_p"], found["q"], whole, strict=True)
    ]
    return RawSplit(counts=tuple(int(count) for count in found["counts"]), images=images, recipe=recipe)


def _letterbox(record: ImageRecord, size: InputSpec) -> Letterbox:
    return Letterbox.fit(width=record.width, height=record.height, input_width=size.width, input_height=size.height)

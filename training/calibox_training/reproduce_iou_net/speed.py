"""Table 4: how long an image takes, with rounds of all systems and pipelines interleaved.

On CPUs processor time is measured, which other work on the machine leaves nearly as it is.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from calibox_core.dataset import DataFolder
from calibox_training.data.coco import read_records
from calibox_training.reproduce_iou_net.nms_methods import Scored, guided_nms, standard_nms
from calibox_training.reproduce_iou_net.raw import Judge, letterboxed, numpy_of, rows

WARM_UP = 3  # images of each


def detect(judge: Judge, images: Tensor) -> None:
    """Detector and standard NMS."""
    found = judge.system.candidates(images)
    boxes, label, p = numpy_of(found.boxes_R4), found.label_R.cpu().numpy(), numpy_of(found.p_R)
    standard_nms(Scored(boxes, label, p, p))


def detect_guided(judge: Judge, images: Tensor) -> None:
    """Detector, predictor and IoU-guided NMS; features are computed again for the predictor."""
    found, q_R = judge.score(images, judge.maps(images))
    guided_nms(Scored(numpy_of(found.boxes_R4), found.label_R.cpu().numpy(), numpy_of(found.p_R), numpy_of(q_R)))


def detect_refined(judge: Judge, images: Tensor) -> None:
    """All of IoU-Net: the hundred best after IoU-guided NMS are refined."""
    maps = judge.maps(images)
    found, q_R = judge.score(images, maps)
    scored = Scored(numpy_of(found.boxes_R4), found.label_R.cpu().numpy(), numpy_of(found.p_R), numpy_of(q_R))
    judge.refine(maps, rows(found, guided_nms(scored)))


def features_alone(judge: Judge, images: Tensor) -> None:
    """What the predictor's pipelines compute a second time here, and a deployed one would share with the detector."""
    judge.maps(images)


TIMED: Mapping[str, Callable[[Judge, Tensor], None]] = {
    "detector": detect,
    "features": features_alone,
    "guided": detect_guided,
    "guided_refined": detect_refined,
}


def seconds_per_image(judge: Judge, data: DataFolder, *, images: int, device: torch.device) -> float:
    """Of the detector with standard NMS, median over the first images of the validation split."""
    return float(np.median([_timed(detect, judge, image) for image in _images(judge, data, images, device)][WARM_UP:]))


def interleaved(
    judges: Mapping[str, Judge], data: DataFolder, *, images: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Milliseconds per image by system and pipeline, medians; each image goes through all before the next one comes."""
    seconds: dict[str, dict[str, list[float]]] = {name: {way: [] for way in TIMED} for name in judges}
    streams = {name: _images(judge, data, images, device) for name, judge in judges.items()}
    for batch in zip(*streams.values(), strict=True):
        for (name, judge), image in zip(judges.items(), batch, strict=True):
            for way, run in TIMED.items():
                seconds[name][way].append(_timed(run, judge, image))
    return {
        name: {way: round(1000 * float(np.median(values[WARM_UP:])), 2) for way, values in ways.items()}
        for name, ways in seconds.items()
    }


def _images(judge: Judge, data: DataFolder, count: int, device: torch.device) -> Iterator[Tensor]:
    records = read_records(data.annotations("val"), judge.system.classes)
    many = count + WARM_UP
    for record in islice((records * (many // len(records) + 1)), many):  # a small split is gone through again
        yield letterboxed(data, record, judge.system.input).to(device)[None]


def _timed(run: Callable[[Judge, Tensor], None], judge: Judge, images: Tensor) -> float:
    """Results are read on the host, which waits for a GPU."""
    clock = time.process_time if images.device.type == "cpu" else time.perf_counter
    start = clock()
    run(judge, images)
    return clock() - start

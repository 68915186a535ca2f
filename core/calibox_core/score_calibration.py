"""How far scores are from what they announce: reliability diagrams, D-ECE, LaECE and LaACE.

A score is compared with a target: whether the detection is right (D-ECE), or the IoU that it reaches (LaECE). Bins of
the score are equally wide, closed below and open above (the last closed), as in `reliability`.

Sources: D-ECE, Kuppers et al. 2020, "Multivariate Confidence Calibration for Object Detection", with the score
alone; LaECE, Oksuz et al. CVPR 2023, "Towards Building Self-aware Object Detectors"; LaECE0 and LaACE0, Kuzucu
et al. ECCV 2024, "On Calibration of Object Detectors", which set LaECE's threshold to 0 and each bin to one detection.

Letters: N detections, C classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibox_core.coco_matching import ClassMatches

BINS = 25  # of the errors, as the papers on LaECE
RELIABILITY_BINS = 10  # of a diagram
D_ECE_IOU = 0.5  # IoU from which a detection is right, as in AP50
LAECE_IOU = 0.1  # IoU from which a detection is matched at all, of the paper that defines LaECE
LAECE0_IOU = 1e-9  # 0, but that what does not overlap an object does not take it from what does


class ReliabilityBin(NamedTuple):
    """Detections whose scores lie side by side."""

    score: float  # mean
    target: float  # mean
    detections: int


def binned_error(scores: NDArray[Any], targets: NDArray[Any], *, bins: int = BINS) -> float:
    """Gap between mean score and mean target of each bin, weighted by its share of detections.

    Args:
        scores: ``[N]`` in 0..1, N at least 1.
        targets: ``[N]`` in 0..1, or flags.
        bins: of the score.
    """
    place = bin_of(scores, bins)
    gap = np.abs(np.bincount(place, scores, minlength=bins) - np.bincount(place, targets, minlength=bins))
    return float(gap.sum() / len(scores))


def reliability(scores: NDArray[Any], targets: NDArray[Any], *, bins: int = RELIABILITY_BINS) -> list[ReliabilityBin]:
    """Mean score, mean target and number of detections of each bin; empty ones are left out."""
    place = bin_of(scores, bins)
    inside = [place == number for number in range(bins)]
    return [
        ReliabilityBin(float(scores[here].mean()), float(targets[here].mean()), int(here.sum()))
        for here in inside
        if here.any()
    ]


def detection_ece(matches: Sequence[ClassMatches], threshold: int = 0) -> float | None:
    """D-ECE over the detections of all classes; None without any. What a crowd region excuses is left out.

    Args:
        matches: of every class.
        threshold: number of the threshold that is `D_ECE_IOU`.
    """
    pairs = [counted(one, one.hit_TN, threshold) for one in matches]
    scores, hits = (np.concatenate([np.empty(0), *column]) for column in zip(*pairs, strict=True))
    return binned_error(scores, hits) if len(scores) else None


def laece(matches: Sequence[ClassMatches], threshold: int = 0) -> float | None:
    """LaECE: the gap to the share of right detections times their mean IoU, mean over classes with detections.

    That product is the mean over the bin's detections of the IoU with the object that each is matched with, 0 where
    there is none.

    Args:
        matches: of every class.
        threshold: number of the threshold that is `LAECE_IOU` for LaECE, `LAECE0_IOU` for LaECE0.
    """
    pairs = [counted(one, one.iou_TN, threshold) for one in matches]
    errors = [binned_error(scores, iou) for scores, iou in pairs if len(scores)]
    return float(np.mean(errors)) if errors else None


def laace(matches: Sequence[ClassMatches], threshold: int = 0) -> float | None:
    """LaACE0: mean distance of score and IoU, mean over classes with detections.

    Args:
        matches: of every class.
        threshold: number of the threshold that is `LAECE0_IOU`.
    """
    pairs = [counted(one, one.iou_TN, threshold) for one in matches]
    errors = [float(np.abs(scores - iou).mean()) for scores, iou in pairs if len(scores)]
    return float(np.mean(errors)) if errors else None


def counted(
    one: ClassMatches, targets_TN: NDArray[Any], threshold: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores and targets of what is a hit or a false alarm at the threshold of this number."""
    counts_N = one.counts_TN[threshold]
    return one.scores_N[counts_N], targets_TN[threshold][counts_N].astype(np.float64)


def bin_of(scores: NDArray[Any], bins: int) -> NDArray[np.int64]:
    """Number of the bin of each score."""
    return np.clip((scores * bins).astype(np.int64), 0, bins - 1)

"""Whether a graph moves kept boxes where PyTorch moves them.

Letters: B images, N detections.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibox_export.sameness import TWO_FRAMEWORKS, Outcome

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]
# images [B, H, W, 3], boxes [B, N, 4], labels [B, N], steps [B] to refined boxes and their predicted IoU [B, N].
Refiner = Callable[[NDArray[np.uint8], Floats, NDArray[np.int32], NDArray[np.int32]], tuple[Floats, Floats]]

# Pixels. A step is a smooth function of the box but for its decisions: to stop, to be the best so far. Where such a
# decision is close, another rounding takes it the other way, and a start that is off by this does so too. A box that
# nothing of the kind happens to ends within a few times this of where it did.
NUDGE = 1e-3


def mixed_steps(images: int, most: int) -> NDArray[np.int32]:
    """Steps of a batch whose images ask for different numbers, more than there are included."""
    return np.resize(np.array([most, 0, 1, most + 1], np.int32), images)


def compare_refined(
    images: NDArray[np.uint8], steps: NDArray[np.int32], before: Arrays, after: Arrays, refiner: Refiner
) -> Outcome:
    """Holds refined detections against PyTorch's refinement of the same kept boxes.

    Boxes may be 0.01 px and predicted IoUs 1e-4 apart, as everywhere between two frameworks: the paths begin at the
    same numbers, and a path of T steps multiplies the rounding of the slopes by a small factor. A box that ends
    elsewhere is excused where PyTorch's own end jumps when the start is nudged.

    Args:
        images: uint8 ``[B, H, W, 3]``.
        steps: int32 ``[B]``, of ``after``.
        before: the graph's outputs with no steps.
        after: its outputs with the steps.
        refiner: PyTorch's.
    """
    labels, start = before["labels"], before["boxes"]
    boxes, iou = refiner(images, start, labels, steps)
    iou = np.where((steps > 0)[:, None] & (labels >= 0), iou, before["localization_scores"])
    nudge = np.array([-NUDGE, -NUDGE, NUDGE, NUDGE], np.float32)
    nudged = [refiner(images, start + way * nudge, labels, steps)[0] for way in (-1, 1)]
    jump = np.max([np.abs(other - boxes).max(axis=2) for other in nudged], axis=0)
    box_gap = np.abs(after["boxes"] - boxes).max(axis=2)
    score_gap = np.abs(after["localization_scores"] - iou)
    same = (box_gap <= TWO_FRAMEWORKS.box) & (score_gap <= TWO_FRAMEWORKS.score)
    excused = ~same & (jump > TWO_FRAMEWORKS.box)
    untouched = all(np.array_equal(before[name], after[name]) for name in before if name not in _MOVED)
    return Outcome(
        compared=int((same & (labels >= 0)).sum()),
        excused=int(excused.sum()),
        different=int((~same & ~excused).sum()) + (not untouched),
        score_gap=float(score_gap[~excused].max(initial=0)),
        box_gap=float(box_gap[~excused].max(initial=0)),
    )


_MOVED = ("boxes", "localization_scores")

"""What a map does to the errors of calibration on the test half, with intervals over resampled images.

Letters: N detections, I images, B resamplings, S bins of the score.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibox_client.calibration.choices import Means
from calibox_client.calibration.mapping import Target
from calibox_core.bootstrap import interval, resampled
from calibox_core.coco_matching import ClassMatches
from calibox_core.score_calibration import BINS, bin_of, counted

DRAWS = 1000
Change = tuple[float, float, float]


def changes(
    before: Sequence[ClassMatches], after: Sequence[ClassMatches], tested_I: NDArray[np.bool_], target: Target
) -> dict[str, Change]:
    """Change of D-ECE, LaECE and the target's error, after less before, with its 95 % interval.

    Args:
        before: of the test half, at the target's thresholds.
        after: the same detections with other scores; the same images are drawn for both.
        tested_I: images of the test half.
        target: what the score announces.

    Returns: by name; an error that cannot be measured is left out.
    """
    weights_BI = np.zeros((DRAWS, len(tested_I)), np.float32)
    weights_BI[:, tested_I] = resampled(int(tested_I.sum()), DRAWS)
    found = {}
    for one in {kind.name: kind for kind in (Target.d_ece(), Target.laece(), target)}.values():
        pair = one.error(before), one.error(after)
        if pair[0] is not None and pair[1] is not None:
            drawn_B = _drawn(after, one, weights_BI) - _drawn(before, one, weights_BI)
            found[one.name] = interval(pair[1] - pair[0], drawn_B)
    return found


def _drawn(matches: Sequence[ClassMatches], target: Target, weights_BI: NDArray[np.float32]) -> NDArray[np.float64]:
    """The error of every resampling; LaECE's is the mean over classes that have detections in it."""
    parts = [
        (one.image_N[one.counts_TN[target.counted_at]], *counted(one, target.told(one), target.counted_at))
        for one in matches
    ]
    if target.means is not Means.IOU:
        image_N, scores_N, targets_N = (np.concatenate(column) for column in zip(*parts, strict=True))
        return drawn_error(image_N, scores_N, targets_N, weights_BI)
    by_class = np.stack([drawn_error(*part, weights_BI) for part in parts])
    there = ~np.isnan(by_class)
    count = there.sum(axis=0)
    return np.where(count > 0, np.where(there, by_class, 0).sum(axis=0) / np.maximum(count, 1), np.nan)


def drawn_error(
    image_N: NDArray[np.int64],
    scores_N: NDArray[np.float64],
    targets_N: NDArray[np.float64],
    weights_BI: NDArray[np.float32],
) -> NDArray[np.float64]:
    """`score_calibration.binned_error` of every resampling, ``[B]``; NaN where it has no detection."""
    gap_IS = np.zeros((weights_BI.shape[1], BINS))
    np.add.at(gap_IS, (image_N, bin_of(scores_N, BINS)), scores_N - targets_N)
    count_I = np.bincount(image_N, minlength=weights_BI.shape[1])
    gap_B, count_B = np.abs(weights_BI @ gap_IS).sum(axis=1), weights_BI @ count_I
    return np.where(count_B > 0, gap_B / np.maximum(count_B, 1), np.nan)

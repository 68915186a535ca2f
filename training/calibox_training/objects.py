"""Ground truth as the losses take it.

Letters: B images, G objects (padded).
"""

from typing import NamedTuple

from torch import Tensor


class Objects(NamedTuple):
    """Ground truth of a batch, padded to the most objects of an image."""

    boxes_BG4: Tensor  # float32, x1, y1, x2, y2 in input pixels; 0 on padding
    labels_BG: Tensor  # int64 class index; -1 on padding and on crowd regions
    crowd_BG: Tensor  # bool
